"""What is in the database, as the tenant sees it."""

from sqlalchemy import text

from tasks.storage.session import tenant_transaction

TENANT = "tenant-1"

_COUNTS = """
    SELECT folder.name, folder.total_count, folder.unread_count, count(message.id),
           count(message.id) FILTER (WHERE NOT message.is_read)
    FROM email_folder AS folder LEFT JOIN email_message AS message ON message.folder_id = folder.id
    GROUP BY folder.id, folder.name, folder.total_count, folder.unread_count
"""


def rows(query: str, **values: object) -> list[tuple[object, ...]]:
    """What a query gives."""
    with tenant_transaction(TENANT) as connection:
        return [tuple(row) for row in connection.execute(text(query), values)]


def column(query: str, **values: object) -> list[object]:
    """The first column of what a query gives."""
    return [row[0] for row in rows(query, **values)]


def stored_uids(folder: str = "INBOX") -> list[int]:
    """The UIDs of the messages of a folder, ascending; one that is stored twice is there twice."""
    return column(
        "SELECT imap_uid FROM email_message JOIN email_folder AS folder ON folder.id = folder_id "
        "WHERE folder.name = :name ORDER BY imap_uid",
        name=folder,
    )


def quarantine(folder: str = "INBOX") -> dict[int, str]:
    """The reasons of the messages set aside in a folder, by UID."""
    return dict(
        rows(
            "SELECT imap_uid, reason FROM raw_quarantine JOIN email_folder AS folder ON folder.id = folder_id "
            "WHERE folder.name = :name",
            name=folder,
        )
    )


def assert_counts_agree() -> None:
    """The counts that the folders carry are those of their rows."""
    for name, total, unread, messages, unread_messages in rows(_COUNTS):
        assert (total, unread) == (messages, unread_messages), name
