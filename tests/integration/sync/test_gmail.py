"""Gmail's labels, threads and All Mail (X-GM-EXT-1), scripted."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.errors import LeaseHeldError, MailServerBusyError
from tasks.storage.accounts.rows import find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.gmail import ALL_MAIL, TRASH, GmailServer
from tests.support.imap_faults import slowly
from tests.support.mailbox import message
from tests.support.stored import column, rows, stored_uids


@pytest.fixture
def gmail(database: Database) -> Iterator[GmailServer]:
    with GmailServer() as server:
        yield server


def labels() -> dict[int, list[str]]:
    found = rows(
        "SELECT imap_uid, labels FROM email_message JOIN email_folder AS folder ON folder.id = folder_id "
        "WHERE folder.path = :path",
        path=ALL_MAIL,
    )
    return {uid: sorted(of_message) for uid, of_message in found}


def test_each_message_is_stored_once_with_its_labels(gmail: GmailServer) -> None:
    tally = sync(register(gmail))

    assert tally.total("synced") == 5
    assert sorted(column("SELECT message_id FROM email_message")) == [f"{n}@example.org" for n in (1, 2, 3, 8, 9)]
    assert labels() == {1: ["Work", "\\Important", "\\Inbox"], 2: ["Bücher (neu)", "\\Inbox"], 3: []}
    assert column("SELECT imap_uid FROM email_message WHERE is_sent") == [3]
    assert column("SELECT message_id FROM email_message WHERE labels @> '{\\\\Inbox}' ORDER BY 1") == [
        "1@example.org",
        "2@example.org",
    ]
    assert stored_uids("INBOX") == []


def test_folders_of_labels_are_listed_with_gmails_counts(gmail: GmailServer) -> None:
    gmail.inbox.set_flags(1, "\\Seen")
    sync(register(gmail))
    counts = {
        name: (total, unread)
        for name, total, unread in rows("SELECT name, total_count, unread_count FROM email_folder")
    }
    assert counts["INBOX"] == (2, 1)
    assert counts["Bücher (neu)"] == (1, 1)
    assert counts[ALL_MAIL] == (3, 3)


def test_gmails_thread_is_the_conversation(gmail: GmailServer) -> None:
    gmail.everything.append(message(4, In_Reply_To="<3@example.org>"))
    gmail.everything.messages[4].thread = 1278455344230334865
    sync(register(gmail))
    conversations = dict(rows("SELECT message_id, conversation_id FROM email_message"))
    assert conversations["1@example.org"] == conversations["2@example.org"] == conversations["4@example.org"]
    assert conversations["3@example.org"] != conversations["1@example.org"]


def test_a_changed_label_changes_the_row_and_fetches_nothing_again(gmail: GmailServer) -> None:
    account = register(gmail)
    sync(account)
    everything = gmail.everything
    bodies = gmail.bodies.total()

    # When a message is archived, and another gets a label with a space
    everything.set_labels(1, "Work")
    gmail.inbox.expunge(1)
    everything.set_labels(3, '"\\\\Sent" "To do"')
    tally = sync(account)

    assert tally.total("updated") == 2
    assert labels() == {1: ["Work"], 2: ["Bücher (neu)", "\\Inbox"], 3: ["To do"]}
    assert gmail.bodies.total() == bodies


def test_a_message_moved_to_trash_is_there_and_no_longer_in_all_mail(gmail: GmailServer) -> None:
    account = register(gmail)
    sync(account)

    gmail.everything.expunge(1)
    gmail.trash.append(message(1))
    sync(account)

    assert sorted(labels()) == [2, 3]
    assert stored_uids(TRASH) == [1, 2]
    assert len(column("SELECT id FROM email_message")) == 5


def test_asking_for_a_labels_folder_brings_its_mail(gmail: GmailServer) -> None:
    account = register(gmail)
    sync(account)
    gmail.everything.append(message(10))
    [inbox] = column("SELECT id FROM email_folder WHERE type = 'inbox'")

    assert sync(account, folder_id=str(inbox)).total("synced") == 1


def test_a_hidden_all_mail_leaves_ordinary_folders_until_it_is_shown(
    gmail: GmailServer, caplog: pytest.LogCaptureFixture
) -> None:
    # Given All Mail hidden from IMAP
    hidden = gmail.folders.pop(ALL_MAIL.encode())
    account = register(gmail)
    sync(account)
    assert stored_uids("INBOX") == [1, 2]
    assert "hides All Mail" in caplog.text

    # When it is shown again, then nothing is there twice
    gmail.folders[ALL_MAIL.encode()] = hidden
    sync(account)
    assert sorted(column("SELECT message_id FROM email_message")) == [f"{n}@example.org" for n in (1, 2, 3, 8, 9)]


def test_a_second_sync_asks_for_nothing(gmail: GmailServer) -> None:
    account = register(gmail)
    sync(account)
    opened = len(gmail.commands("EXAMINE"))
    assert sync(account).total("synced") == 0
    assert len(gmail.commands("EXAMINE")) == opened


def test_gmails_fifteen_connections_are_never_used_up(gmail: GmailServer) -> None:
    # Given a server that takes its time, and twenty syncs of one account
    gmail.on("LIST", slowly(0.3), times=None)
    account = register(gmail)

    def attempt(_: int) -> str:
        try:
            return str(sync(account).total("synced"))
        except LeaseHeldError:
            return "held"

    with ThreadPoolExecutor(5) as pool:
        outcomes = list(pool.map(attempt, range(20)))

    # Then one at a time had a connection
    assert "held" in outcomes
    assert gmail.most_open == 1


def test_too_many_connections_are_no_wrong_password(gmail: GmailServer) -> None:
    gmail.login_refusal = "NO [ALERT] Too many simultaneous connections. (Failure)"
    account = register(gmail)
    with pytest.raises(MailServerBusyError):
        sync(account)
    assert find_account(TENANT, account.id).paused_at is None
