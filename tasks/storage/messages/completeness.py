"""How complete the folders of an account are: what the server said it has, what is stored, and what is missing."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from tasks.storage.accounts.rows import Account
from tasks.storage.models import MISSING_REASONS
from tasks.storage.session import tenant_transaction

# `missing_reason` in words.
_WORDS: Mapping[str, str] = dict(
    zip(
        MISSING_REASONS,
        (
            "the server names fewer messages than it says it has",
            "the server names messages that it does not give",
            "the server shows only its newest messages; whether it has older ones cannot be known",
            "the server lists fewer messages than it counts, or does not say what a message is known by",
            "the folder could not be opened",
        ),
        strict=True,
    )
)


class Standing(NamedTuple):
    """The counts of a folder. `on_server` is None where the server has not said how many messages it has.

    `hidden` of the `stored` messages are not shown by the server. `missing_reason` is set where messages are missing,
    also where nobody can tell how many.
    """

    name: str
    type: str
    on_server: int | None
    stored: int
    set_aside: int
    hidden: int
    missing: int
    missing_reason: str | None
    synced_at: datetime | None
    is_left_out: bool

    @property
    def why(self) -> str:
        """Why messages are missing, hidden or left out, for people; empty where none are."""
        if self.is_left_out:
            return "left out: it shows messages of other folders a second time"
        reasons = [_WORDS[self.missing_reason]] if self.missing_reason else []
        if self.hidden:
            reasons.append(f"{self.hidden} stored here are no longer among those that the server shows")
        return "; ".join(reasons)


_STANDINGS = text(
    """
    SELECT folder.name, folder.type, CASE WHEN view.is_left_out THEN folder.total_count ELSE folder.server_count END,
           CASE WHEN view.is_left_out THEN 0 ELSE folder.total_count END,
           (SELECT count(*) FROM raw_quarantine AS raw
            WHERE raw.tenant_id = folder.tenant_id AND raw.folder_id = folder.id)::int,
           folder.hidden_count, folder.missing_count, folder.missing_reason, folder.synced_at, view.is_left_out
    FROM email_folder AS folder, LATERAL (SELECT folder.is_view AND folder.uidvalidity IS NULL AS is_left_out) AS view
    WHERE folder.tenant_id = :tenant_id AND folder.email_client_id = :account_id AND folder.is_selectable
    ORDER BY folder.type = 'custom', folder.name
    """
)

_INCOMPLETE = text(
    """
    SELECT id, name, missing_count, server_count, missing_reason FROM email_folder
    WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND is_selectable AND missing_reason <> 'refused'
    ORDER BY type = 'custom', name
    """
)


class Incomplete(NamedTuple):
    """A folder with missing messages. A `missing` of 0 means that nobody can tell how many."""

    folder_id: str
    name: str
    missing: int
    why: str


def standings(account: Account) -> list[Standing]:
    """Each folder that can hold messages, the special ones first."""
    with tenant_transaction(account.tenant_id) as connection:
        rows = connection.execute(_STANDINGS, {"tenant_id": account.tenant_id, "account_id": account.id})
        return [Standing(*row) for row in rows]


def incomplete_folders(connection: Connection, account: Account) -> list[Incomplete]:
    """The folders that could be opened and have missing messages."""
    rows = connection.execute(_INCOMPLETE, {"tenant_id": account.tenant_id, "account_id": account.id})
    return [
        Incomplete(folder_id, name, missing, f"{missing} of {on_server} missing: {why}" if missing else why)
        for folder_id, name, missing, on_server, why in ((*row[:4], _WORDS[row[4]]) for row in rows)
    ]
