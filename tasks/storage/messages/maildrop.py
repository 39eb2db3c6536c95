"""Which messages of a POP3 maildrop are stored, by their keys (`tasks.mail.pop3.uidl`)."""

from collections.abc import Collection

from sqlalchemy import Connection, text

from tasks.storage.accounts.rows import Account
from tasks.storage.messages.changes import Envelope
from tasks.storage.messages.folders import Folder, NewFolder, add_folders, load_folders

_KNOWN = """
    EXISTS (SELECT FROM email_message
            WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND uidl = listed.key)
    OR EXISTS (SELECT FROM raw_quarantine
               WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND uidl = listed.key)
    """
_MISSING = text(f"SELECT key FROM unnest(CAST(:keys AS text[])) AS listed (key) WHERE NOT ({_KNOWN})")

_IS_KNOWN_BY_UNIQUE_IDS = text(
    """
    SELECT EXISTS (
      SELECT FROM email_message
      WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND uidl !~ '^(sha256|size):'
    )
    """
)

# Quarantined messages do not count as stored, so they are never deleted from the server, which has them whole.
_STORED = text(
    """
    SELECT listed.key, message.message_id, message.size, message.received_at
    FROM unnest(CAST(:keys AS text[])) AS listed (key)
    JOIN email_message AS message
      ON message.tenant_id = :tenant_id AND message.email_client_id = :account_id AND message.uidl = listed.key
    WHERE message.filed_at <= now() - make_interval(days => :days)
    """
)

_PART = text(
    """
    UPDATE email_message SET uidl = 'replaced:' || id
    WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND uidl = ANY(CAST(:keys AS text[]))
    """
)


def missing_keys(connection: Connection, account: Account, keys: Collection[str]) -> set[str]:
    """Which of `keys` are neither stored nor in quarantine."""
    return set(connection.scalars(_MISSING, {**_of(account), "keys": list(keys)}))


def is_known_by_unique_ids(connection: Connection, account: Account) -> bool:
    """Whether the account's server has given unique-ids before."""
    return bool(connection.scalar(_IS_KNOWN_BY_UNIQUE_IDS, _of(account)))


def stored(connection: Connection, account: Account, keys: Collection[str], days: int = 0) -> dict[str, Envelope]:
    """The envelopes of messages with these `keys` that were stored at least so many days ago, by key."""
    rows = connection.execute(_STORED, {**_of(account), "keys": list(keys), "days": days})
    return {key: Envelope(0, *identity) for key, *identity in rows}


def part_from(connection: Connection, account: Account, keys: Collection[str]) -> None:
    """Take these keys from the messages that are stored under them, because the keys are other messages' now."""
    connection.execute(_PART, {**_of(account), "keys": list(keys)})


def local_folder(connection: Connection, account: Account, name: str, kind: str) -> Folder:
    """The account's folder of this name, made if there is none. POP3 has no folders, so they exist here alone."""
    if name not in load_folders(connection, account, None):
        add_folders(connection, account, [NewFolder(name, name, None, kind, is_selectable=True)])
    return load_folders(connection, account, None)[name]


def _of(account: Account) -> dict[str, object]:
    return {"tenant_id": account.tenant_id, "account_id": account.id}
