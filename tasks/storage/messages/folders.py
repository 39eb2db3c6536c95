"""The folders of an account, and how far each is synced."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, text, update

from tasks.storage.accounts.rows import Account
from tasks.storage.events import tell
from tasks.storage.ids import new_id
from tasks.storage.models import EmailFolder, EmailMessage, RawQuarantine
from tasks.storage.session import tenant_transaction
from tasks.storage.states import EventType


class Folder(NamedTuple):
    """A row of email_folder."""

    id: str
    path: str
    name: str
    delimiter: str | None
    type: str
    is_selectable: bool
    is_view: bool
    unread_count: int
    total_count: int
    uidvalidity: int | None
    uidnext: int
    highestmodseq: int | None
    mailbox_id: str | None
    suspect_uid: int | None
    suspect_uidl: str | None
    suspect_attempts: int
    server_count: int | None
    window_size: int | None
    hidden_count: int
    missing_count: int
    missing_reason: str | None
    quarantined_count: int
    is_missing_due: bool
    is_verified: bool


class NewFolder(NamedTuple):
    """A folder as the server lists it."""

    path: str
    name: str
    delimiter: str | None
    type: str
    is_selectable: bool
    is_view: bool = False


class FolderSummary(NamedTuple):
    """What a person wants to know of a folder; `size` is the sum of its messages' sizes in bytes."""

    name: str
    type: str
    messages: int
    unread: int
    attachments: int
    quarantined: int
    size: int


_QUARANTINED = (
    select(func.count())
    .where(RawQuarantine.tenant_id == EmailFolder.tenant_id, RawQuarantine.folder_id == EmailFolder.id)
    .correlate(EmailFolder)
    .scalar_subquery()
)
_COLUMNS = [
    *(EmailFolder.__table__.c[name] for name in Folder._fields if name in EmailFolder.__table__.c),
    _QUARANTINED,
    func.coalesce(EmailFolder.missing_again_at <= func.now(), text("true")),
]

_SUMMARIES = text(
    """
    SELECT folder.name, folder.type, folder.total_count, folder.unread_count,
           coalesce(sum(message.attachment_count), 0)::int,
           (SELECT count(*) FROM raw_quarantine AS raw
            WHERE raw.tenant_id = folder.tenant_id AND raw.folder_id = folder.id)::int,
           coalesce(sum(message.size), 0)::bigint
    FROM email_folder AS folder
    LEFT JOIN email_message AS message ON message.tenant_id = folder.tenant_id AND message.folder_id = folder.id
    WHERE folder.tenant_id = :tenant_id AND folder.email_client_id = :account_id AND folder.is_selectable
    GROUP BY folder.tenant_id, folder.id
    ORDER BY folder.type = 'custom', folder.name
    """
)


def folder_summaries(tenant_id: str, account_id: str) -> list[FolderSummary]:
    """Each folder that can hold messages, the special ones first."""
    with tenant_transaction(tenant_id) as connection:
        rows = connection.execute(_SUMMARIES, {"tenant_id": tenant_id, "account_id": account_id})
        return [FolderSummary(*row) for row in rows]


def load_folders(connection: Connection, account: Account, verified_since: float | None) -> dict[str, Folder]:
    """The account's folders by path.

    `is_verified` says whether all messages were compared since `verified_since` (Unix time).

    `is_missing_due` says whether it is time to look again for missing messages.
    """
    is_verified = (
        EmailFolder.verified_at >= func.to_timestamp(verified_since) if verified_since is not None else text("true")
    )
    rows = connection.execute(
        select(*_COLUMNS, func.coalesce(is_verified, False)).where(*_of(account)).order_by(EmailFolder.path)
    )
    return {row.path: Folder._make(row) for row in rows}


def doubled_folders(connection: Connection, account: Account) -> list[Folder]:
    """The views (folders that show messages of other folders) that were synced all the same."""
    folders = load_folders(connection, account, None).values()
    return [folder for folder in folders if folder.is_view and folder.uidvalidity is not None]


def load_folder(connection: Connection, account: Account, folder_id: str) -> Folder:
    """One folder as it is now."""
    row = connection.execute(select(*_COLUMNS, text("false")).where(*_is(account, folder_id))).one()
    return Folder._make(row)


def add_folders(connection: Connection, account: Account, folders: list[NewFolder]) -> None:
    """Add rows for folders that the server has and that are not stored yet."""
    if folders:
        rows = [
            {"tenant_id": account.tenant_id, "id": new_id(), "email_client_id": account.id, **folder._asdict()}
            for folder in folders
        ]
        connection.execute(insert(EmailFolder), rows)
        created = [{"folder_id": row["id"], "name": row["name"], "type": row["type"]} for row in rows]
        _tell(connection, account, EventType.FOLDER_CREATED, *created)


def change_folder(connection: Connection, account: Account, folder_id: str, changes: Mapping[str, object]) -> None:
    """Set columns of one folder; the checkpoint `uidnext` only ever moves up, unless it starts again at 1.

    Another name or place is not set here, but by `adopt_folder`, which tells of it.
    """
    assert not changes.keys() & {"path", "name"}, "adopt_folder tells of another name"
    if changes.get("uidnext", 1) != 1:
        changes = {**changes, "uidnext": func.greatest(EmailFolder.uidnext, changes["uidnext"])}
    connection.execute(update(EmailFolder).where(*_is(account, folder_id)).values(**changes))


def vacate_path(connection: Connection, account: Account, folder: Folder) -> None:
    """Give a folder a path that no folder has, until `adopt_folder` gives the folder its new path."""
    connection.execute(update(EmailFolder).where(*_is(account, folder.id)).values(path=f"\n{folder.id}"))


def adopt_folder(connection: Connection, account: Account, folder: Folder, listed: NewFolder) -> None:
    """Change a folder's row to what the server lists."""
    connection.execute(update(EmailFolder).where(*_is(account, folder.id)).values(**listed._asdict()))
    if (folder.path, folder.name) != (listed.path, listed.name):
        change = {"folder_id": folder.id, "name": listed.name, "old_name": folder.name}
        _tell(connection, account, EventType.FOLDER_RENAMED, change)


def file_now(connection: Connection, account: Account, folder_id: str) -> None:
    """Let the messages of a folder count as moved into the folder at this moment."""
    where = (EmailMessage.tenant_id == account.tenant_id, EmailMessage.folder_id == folder_id)
    connection.execute(update(EmailMessage).where(*where).values(filed_at=func.now()))


def remove_folders(connection: Connection, account: Account, folder_ids: list[str]) -> int:
    """Remove folders that the server no longer has, with their messages. Returns how many messages were removed."""
    if not folder_ids:
        return 0
    columns = (EmailFolder.id, EmailFolder.name, EmailFolder.total_count)
    where = (*_of(account), EmailFolder.id.in_(folder_ids))
    removed = connection.execute(delete(EmailFolder).where(*where).returning(*columns)).all()
    gone = [{"folder_id": row.id, "name": row.name, "messages_deleted": row.total_count} for row in removed]
    _tell(connection, account, EventType.FOLDER_DELETED, *gone)
    return sum(row.total_count for row in removed)


def _tell(connection: Connection, account: Account, kind: EventType, *changes: Mapping[str, object]) -> None:
    if account.has_synced:
        tell(connection, account.tenant_id, account.id, kind, *changes)


def _of(account: Account) -> tuple[ColumnElement[bool], ...]:
    return EmailFolder.tenant_id == account.tenant_id, EmailFolder.email_client_id == account.id


def _is(account: Account, folder_id: str) -> tuple[ColumnElement[bool], ...]:
    return (*_of(account), EmailFolder.id == folder_id)
