"""A first sync of a real mailbox: every message of every folder, once, with its content and its state."""

from sqlalchemy import text

from tasks.storage.accounts.rows import Account, find_account
from tasks.storage.messages.folders import folder_summaries
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, sync
from tests.support.mailbox import Mailbox, message


def rows(query: str) -> list[tuple[object, ...]]:
    """What the tenant sees."""
    with tenant_transaction(TENANT) as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_all_messages_of_all_folders_arrive_once(account: Account, mailbox: Mailbox) -> None:
    mailbox.create("Projekte")
    mailbox.create("日本語")
    mailbox.append([message(n) for n in range(30)])
    mailbox.append([message(n) for n in range(30, 35)], "日本語", r"\Seen \Flagged")

    tally = sync(account)

    assert tally.total("synced") == 35
    counts = {f.name: (f.messages, f.unread) for f in folder_summaries(TENANT, account.id)}
    assert counts["INBOX"] == (30, 30)
    assert counts["日本語"] == (5, 0)
    assert counts["Projekte"] == (0, 0)
    assert len(set(rows("SELECT message_id FROM email_message"))) == 35
    assert rows("SELECT count(*) FROM email_message WHERE is_read AND is_starred") == [(5,)]


def test_a_second_sync_stores_nothing_and_opens_no_folder(account: Account, mailbox: Mailbox) -> None:
    mailbox.append([message(n) for n in range(3)])
    sync(account)

    tally = sync(account)

    assert tally.folders == {}


def test_success_is_kept_on_the_account(account: Account) -> None:
    sync(account)

    synced = find_account(TENANT, account.id)
    assert synced.last_sync_at is not None
    assert synced.last_error is None
