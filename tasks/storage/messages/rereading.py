"""Messages that are to be read again because an older parser read
them: which messages, how far rereading is, and its outcomes.

    asked for -> waiting (`outcome` NULL) -> read again: the row is deleted
                                          -> gone | other | unreadable: the row stays, so that the message is not
                                             asked for again automatically

A message's new reading and the removal of its row here are one
transaction, so the next run simply continues a run that was killed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, delete, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert

from tasks.mail.message import PARSER_VERSION
from tasks.settings import RereadSettings
from tasks.storage.accounts.rows import Account, get_account
from tasks.storage.models import EmailMessage, RawQuarantine
from tasks.storage.models import Rereading as Row
from tasks.storage.session import tenant_transaction, unbound_transaction

# Reasons for quarantine that a newer parser may mend. A sync fetches these messages again.
_UNREAD_REASONS = ("unparsable", "parser_failed", "unstorable")

_ALLOWANCE = text(
    """
    SELECT CASE WHEN reread_at > now() - interval '1 hour' THEN greatest(1 - reread_share, 0) ELSE 1 END
    FROM email_client WHERE tenant_id = :tenant_id AND id = :account_id
    """
)
_WAITING = text(
    """
    SELECT message.id, message.folder_id, message.uidvalidity, message.imap_uid, message.uidl, message.size,
           waiting.attempts
    FROM rereading AS waiting
    JOIN email_message AS message
      ON message.tenant_id = waiting.tenant_id AND message.id = waiting.email_message_id
    WHERE waiting.tenant_id = :tenant_id AND waiting.email_client_id = :account_id AND waiting.outcome IS NULL
      AND waiting.parser_version <= :known_version
    ORDER BY waiting.attempts, waiting.email_message_id DESC
    LIMIT :most
    """
)
_IS_WAITING = text(
    """
    SELECT EXISTS (
      SELECT FROM rereading WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND outcome IS NULL
    )
    """
)
_NUMBER_WAITING = text(
    """
    SELECT count(*) FROM rereading
    WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND outcome IS NULL
    """
)
_SPEND = text(
    """
    UPDATE email_client
    SET reread_at = now(),
        reread_share = least(1, :share + CASE WHEN reread_at > now() - interval '1 hour' THEN reread_share ELSE 0 END)
    WHERE tenant_id = :tenant_id AND id = :account_id
    """
)
_DONE = text("DELETE FROM rereading WHERE tenant_id = :tenant_id AND email_message_id = ANY(CAST(:ids AS text[]))")
_SETTLE = text(
    """
    UPDATE rereading SET outcome = :outcome, detail = settled.detail
    FROM unnest(CAST(:ids AS text[]), CAST(:details AS text[])) AS settled (id, detail)
    WHERE rereading.tenant_id = :tenant_id AND rereading.email_message_id = settled.id
    """
)
_LEAVE = text(
    """
    UPDATE rereading SET attempts = attempts + 1
    WHERE tenant_id = :tenant_id AND email_message_id = ANY(CAST(:ids AS text[]))
    """
)
_ACCOUNTS = text(
    """
    SELECT tenant_id, email_client_id, user_id
    FROM accounts_with_rereading(:known_version, :after_tenant, :after_account, :max_accounts, :automatically)
    """
)
_OLDER_IS_DUE = text(
    """
    SELECT reread_version < :known_version OR coalesce(reread_again_at <= now(), false)
    FROM email_client WHERE tenant_id = :tenant_id AND id = :account_id
    """
)
# During a deploy, workers of the release before still store what their older parser reads. So all older messages are
# asked for once more a day later.
_OLDER_WAS_ASKED = text(
    """
    UPDATE email_client
    SET reread_again_at = CASE WHEN reread_version < :known_version THEN now() + interval '1 day' END,
        reread_version = greatest(reread_version, :known_version)
    WHERE tenant_id = :tenant_id AND id = :account_id
    """
)
_COUNTS = text(
    """
    SELECT
      (SELECT count(*) FROM email_message
       WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND parser_version < :known_version)::int,
      count(*) FILTER (WHERE outcome IS NULL)::int, count(*) FILTER (WHERE outcome = 'gone')::int,
      count(*) FILTER (WHERE outcome = 'other')::int, count(*) FILTER (WHERE outcome = 'unreadable')::int
    FROM rereading WHERE tenant_id = :tenant_id AND email_client_id = :account_id
    """
)


class Waiting(NamedTuple):
    """A stored message that is to be read again, and where it is on the server."""

    id: str
    folder_id: str
    uidvalidity: int | None
    imap_uid: int | None
    uidl: str | None
    size: int
    attempts: int


class Counts(NamedTuple):
    """Counts of an account's messages: read by an older parser,
    waiting to be read again, and not readable again, by reason."""

    old: int
    waiting: int
    gone: int
    other: int
    unreadable: int


class Asked(NamedTuple):
    """How many messages are (or would be) read again, and how many quarantined messages are fetched again."""

    messages: int
    set_aside: int


def ask(
    account: Account, older_than: int, conditions: Sequence[ColumnElement[bool]] = (), *, dry_run: bool = False
) -> Asked:
    """Ask for the account's messages that a parser before `older_than` read and that meet all `conditions`.

    Messages that are known to be gone from the server are left out. Without
    conditions, messages that the parser could not read or PostgreSQL could not
    store are removed from quarantine as well, so that the next sync fetches them.
    """
    found = _found(account, older_than, conditions)
    unread = (
        RawQuarantine.tenant_id == account.tenant_id,
        RawQuarantine.email_client_id == account.id,
        RawQuarantine.reason.in_(() if conditions else _UNREAD_REASONS),
    )
    with tenant_transaction(account.tenant_id) as connection:
        if dry_run:
            set_aside = connection.scalar(select(func.count()).select_from(RawQuarantine).where(*unread))
            return Asked(connection.scalar(select(func.count()).select_from(found.subquery())) or 0, set_aside or 0)
        columns = [Row.tenant_id, Row.email_message_id, Row.email_client_id, Row.parser_version]
        asked = insert(Row).from_select(columns, found)
        again = asked.on_conflict_do_update(
            index_elements=[Row.tenant_id, Row.email_message_id],
            set_={
                "parser_version": asked.excluded.parser_version,
                "outcome": None,
                "detail": None,
                "attempts": 0,
                "created_at": func.now(),
            },
        )
        return Asked(
            connection.execute(again).rowcount, connection.execute(delete(RawQuarantine).where(*unread)).rowcount
        )


def ask_for_older(tenant_id: str, user_id: str, account_id: str) -> None:
    """Ask for all messages of the account that older parsers
    read: once for each parser version, and once more a day later.

    If the call is interrupted, the next call does it anew.
    Raises NotFoundError for an account that is not the caller's.
    """
    with tenant_transaction(tenant_id) as connection:
        account = get_account(connection, tenant_id, user_id, account_id)
        values = {**_of(account), "known_version": PARSER_VERSION}
        if not connection.scalar(_OLDER_IS_DUE, values):
            return
    ask(account, PARSER_VERSION)
    with tenant_transaction(tenant_id) as connection:
        connection.execute(_OLDER_WAS_ASKED, values)


def _found(
    account: Account, older_than: int, conditions: Sequence[ColumnElement[bool]]
) -> Select[str, str, str, int]:
    is_gone = (
        select(Row.email_message_id)
        .where(
            Row.tenant_id == EmailMessage.tenant_id,
            Row.email_message_id == EmailMessage.id,
            Row.outcome == "gone",
        )
        .exists()
    )
    return select(
        EmailMessage.tenant_id, EmailMessage.id, EmailMessage.email_client_id, literal(PARSER_VERSION)
    ).where(
        EmailMessage.tenant_id == account.tenant_id,
        EmailMessage.email_client_id == account.id,
        EmailMessage.parser_version < older_than,
        ~is_gone,
        *conditions,
    )


def choose(connection: Connection, account: Account, limits: RereadSettings, most: int) -> list[Waiting]:
    """The messages to be read next: as many as the account's hourly limits still allow, and no more than `most`.

    A message that is larger than the hourly limit is read alone, and uses up the whole hour.
    """
    allowed = float(connection.execute(_ALLOWANCE, _of(account)).scalar_one())
    number = min(round(allowed * limits.messages_per_hour), most)
    values = {**_of(account), "known_version": PARSER_VERSION, "most": number}
    chosen: list[Waiting] = []
    size = 0
    for row in connection.execute(_WAITING, values) if number else ():
        size += row.size
        if size > allowed * limits.bytes_per_hour and (chosen or allowed < 1):
            break
        chosen.append(Waiting._make(row))
    return chosen


def is_waiting(connection: Connection, account: Account) -> bool:
    """Whether any message of the account is still to be read again."""
    return bool(connection.scalar(_IS_WAITING, _of(account)))


def spend(connection: Connection, account: Account, share: float = 1) -> None:
    """Note how much of the account's hourly limits has been used (1: all)."""
    connection.execute(_SPEND, {**_of(account), "share": share})


def note_read(connection: Connection, account: Account, ids: Sequence[str]) -> None:
    """Note that these messages have been read again: their rows are deleted."""
    connection.execute(_DONE, {"tenant_id": account.tenant_id, "ids": list(ids)})


def settle(connection: Connection, account: Account, outcome: str, details: Mapping[str, str | None]) -> None:
    """Note why these messages stay as they are: gone, other or unreadable. `details` has words for people by id."""
    if details:
        values = {"ids": list(details), "details": list(details.values()), "outcome": outcome}
        connection.execute(_SETTLE, {"tenant_id": account.tenant_id, **values})


def leave(connection: Connection, account: Account, ids: Sequence[str]) -> None:
    """Note that these messages could not be fetched now; other messages come first from now on."""
    connection.execute(_LEAVE, {"tenant_id": account.tenant_id, "ids": list(ids)})


def number_waiting(account: Account) -> int:
    """How many messages of the account are still to be read again."""
    with tenant_transaction(account.tenant_id) as connection:
        return int(connection.execute(_NUMBER_WAITING, _of(account)).scalar_one())


def counts(account: Account) -> Counts:
    """How far rereading is."""
    with tenant_transaction(account.tenant_id) as connection:
        row = connection.execute(_COUNTS, {**_of(account), "known_version": PARSER_VERSION}).one()
    return Counts._make(row)


def accounts_to_reread(
    after: tuple[str, str], limit: int, *, automatically: bool = False
) -> list[tuple[str, str, str]]:
    """The next accounts of all tenants, in order, after this
    (tenant, account), with messages that may be read again now.

    With `automatically` also accounts for which `ask_for_older` is due. Each is (tenant, account, user).
    """
    values = {
        "after_tenant": after[0],
        "after_account": after[1],
        "max_accounts": limit,
        "automatically": automatically,
    }
    with unbound_transaction() as connection:
        rows = connection.execute(_ACCOUNTS, {**values, "known_version": PARSER_VERSION})
        return [(row.tenant_id, row.email_client_id, row.user_id) for row in rows]


def _of(account: Account) -> dict[str, object]:
    return {"tenant_id": account.tenant_id, "account_id": account.id}
