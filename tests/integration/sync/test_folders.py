"""Folders of a real server: new, renamed, removed, nested, unselectable, with names of any kind, special ones."""

import shutil
import time

from sqlalchemy import update

from native.dovecot import Dovecot
from tasks.storage.accounts.rows import Account
from tasks.storage.models import EmailClient
from tasks.storage.session import tenant_transaction
from tests.conftest import sync
from tests.support.mailbox import Mailbox, message
from tests.support.proxy import Proxy
from tests.support.stored import assert_counts_agree, column, rows, stored_uids
from tests.support.worker import wait_until


def names() -> set[object]:
    return set(column("SELECT name FROM email_folder"))


def ids(folder: str) -> list[tuple[object, ...]]:
    return rows(
        "SELECT message.id, imap_uid, folder.id FROM email_message AS message "
        "JOIN email_folder AS folder ON folder.id = folder_id WHERE folder.name = :name ORDER BY imap_uid",
        name=folder,
    )


def test_a_renamed_folder_keeps_its_rows(account: Account, mailbox: Mailbox) -> None:
    # Given two folders alike in all but their mail
    for offset, folder in enumerate(("Projekte", "Reisen")):
        mailbox.create(folder)
        mailbox.append((message(100 * offset + n) for n in range(5)), folder)
    sync(account)
    projects, travels = ids("Projekte"), ids("Reisen")

    mailbox.rename("Projekte", "Vorhaben/Größe 日本")
    tally = sync(account)

    assert ids("Vorhaben/Größe 日本") == projects
    assert ids("Reisen") == travels
    assert "Projekte" not in names()
    assert (tally.total("synced"), tally.deleted_with_folders) == (0, 0)
    assert_counts_agree()


def test_a_removed_folder_goes_with_its_messages_and_a_new_one_comes(account: Account, mailbox: Mailbox) -> None:
    mailbox.create("Alt")
    mailbox.append([message(1), message(2)], "Alt")
    mailbox.append([message(3)])
    sync(account)

    mailbox.remove("Alt")
    mailbox.create("Neu")
    mailbox.append([message(4)], "Neu")
    tally = sync(account)

    assert tally.deleted_with_folders == 2
    assert "Alt" not in names()
    assert stored_uids("Neu") == [1]
    assert sorted(column("SELECT subject FROM email_message")) == ["Message 3", "Message 4"]
    assert_counts_agree()


def test_a_removed_and_made_again_folder_is_another(account: Account, mailbox: Mailbox) -> None:
    mailbox.create("Wieder")
    mailbox.append([message(1)], "Wieder")
    sync(account)

    mailbox.remove("Wieder")
    wait_for_another_uidvalidity()
    mailbox.create("Wieder")
    mailbox.append([message(2), message(3)], "Wieder")
    sync(account)

    assert sorted(column("SELECT subject FROM email_message")) == ["Message 2", "Message 3"]
    assert_counts_agree()


def test_nested_folders_whose_parents_hold_no_mail(account: Account, mailbox: Mailbox) -> None:
    mailbox.create("A/B/C")
    mailbox.append([message(1)], "A/B/C")

    sync(account)

    assert stored_uids("A/B/C") == [1]
    selectable = dict(rows("SELECT name, is_selectable FROM email_folder"))
    assert selectable["A/B/C"] is True
    assert selectable.get("A/B", False) is False
    assert selectable.get("A", False) is False


def test_names_of_any_kind(account: Account, mailbox: Mailbox) -> None:
    odd = ["Entwürfe & Co", "日本語/台北", 'a "b" \\c', "😀", "100% (neu) {3}", "&", " ", "INBOX/Büro"]
    for number, name in enumerate(odd):
        mailbox.create(name)
        mailbox.append([message(number)], name)

    sync(account)

    for name in odd:
        assert stored_uids(name) == [1], name


def test_the_server_says_what_folders_are_for(account: Account, mailbox: Mailbox) -> None:
    for name in ("Sent", "Drafts", "Junk", "Trash", "Archive", "Rest"):
        mailbox.create(name)
        mailbox.append([message(1)], name)

    sync(account)

    types = dict(rows("SELECT name, type FROM email_folder"))
    assert types == {
        "INBOX": "inbox", "Sent": "sent", "Drafts": "drafts", "Junk": "spam", "Trash": "trash", "Archive": "archive",
        "Rest": "custom",
    }  # fmt: skip
    assert rows(
        "SELECT DISTINCT folder.name FROM email_message JOIN email_folder AS folder ON folder.id = folder_id "
        "WHERE is_spam OR is_sent OR is_draft ORDER BY 1"
    ) == [("Drafts",), ("Junk",), ("Sent",)]


def test_a_changed_uidvalidity_keeps_the_rows_and_downloads_no_body(
    account: Account, mailbox: Mailbox, dovecot: Dovecot
) -> None:
    # Given large messages, one of which goes while the server forgets its numbers
    mailbox.append(message(n, body="x\n" * 50_000) for n in range(1, 6))
    mailbox.flag("4", r"\Seen")
    sync(account)
    before = {subject: id_ for id_, subject in rows("SELECT id, subject FROM email_message")}
    (uidvalidity,) = column("SELECT uidvalidity FROM email_folder WHERE name = 'INBOX'")
    mailbox.expunge("2")
    wait_for_another_uidvalidity()
    for file in (dovecot.mail_root / mailbox.user).glob("dovecot*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()

    # When it is synced, the bytes counted
    with Proxy((mailbox.host, mailbox.port), rate=10**9) as proxy:
        change(account, port=proxy.port)
        tally = sync(account)

    # Then the numbers are new, the rows are not, and no body came over the wire
    assert column("SELECT uidvalidity FROM email_folder WHERE name = 'INBOX'") != [uidvalidity]
    assert stored_uids() == mailbox.uids()
    after = {subject: id_ for id_, subject in rows("SELECT id, subject FROM email_message")}
    assert after == {subject: id_ for subject, id_ in before.items() if subject != "Message 2"}
    assert column("SELECT subject FROM email_message WHERE is_read") == ["Message 4"]
    assert tally.total("synced") == 0
    assert 0 < proxy.received < 50_000
    assert_counts_agree()


def wait_for_another_uidvalidity() -> None:
    """Dovecot makes it of the time in seconds."""
    now = int(time.time())
    wait_until(lambda: int(time.time()) > now + 1, "time stands still")


def change(account: Account, *, port: int) -> None:
    with tenant_transaction(account.tenant_id) as connection:
        connection.execute(update(EmailClient).where(EmailClient.id == account.id).values(port=port))
