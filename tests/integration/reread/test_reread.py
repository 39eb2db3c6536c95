"""What an older parser read wrong is read again from a real Dovecot, in place."""

from collections.abc import Callable

import pytest

from tasks.mail.message import PARSER_VERSION
from tasks.storage.accounts.rows import Account
from tasks.storage.messages import rereading
from tests.conftest import Database, register, sync
from tests.integration.reread.conftest import DERIVED, KEPT, a_new_hour, as_owner, ask, outcomes, reread, table
from tests.support.gmail import GmailServer
from tests.support.mailbox import Mailbox, message
from tests.support.stored import assert_counts_agree, column, rows

FLAGS = r"\Seen \Flagged $Label1"


def with_files(number: int, **files: bytes) -> bytes:
    """A message with a text, HTML and attachments."""
    from email.message import EmailMessage

    mail = EmailMessage()
    mail["From"] = "Ada <ada@example.org>"
    mail["To"] = "Bob <bob@example.org>"
    mail["Cc"] = "Cy <cy@example.org>"
    mail["Reply-To"] = "Desk <desk@example.org>"
    mail["Subject"] = f"Message {number} with files"
    mail["Date"] = "Mon, 02 Mar 2026 10:00:00 +0000"
    mail["Message-ID"] = f"<{number}@example.org>"
    mail.set_content("Text.\n")
    mail.add_alternative("<p>HTML</p>\n", subtype="html")
    for name, content in files.items():
        mail.add_attachment(content, "application", "pdf", filename=f"{name}.pdf")
    return mail.as_bytes().replace(b"\n", b"\r\n")


MAIL = [message(1), with_files(2, a=b"a", b=b"b"), message(3, body="Grüße", subject="Grüße"), with_files(4, a=b"a")]


@pytest.fixture(params=["imap", "pop3"])
def synced(request: pytest.FixtureRequest, mailbox: Mailbox) -> Account:
    """An account with a few messages of each kind, synced."""
    account: Account = request.getfixturevalue("account" if request.param == "imap" else "maildrop")
    mailbox.append(MAIL[:2], flags=FLAGS)
    mailbox.append(MAIL[2:])
    sync(account)
    return account


def attachments() -> list[tuple[object, ...]]:
    return rows(
        "SELECT email_message_id, position, id, filename, mime_type, size, content_id, is_inline, storage_key "
        "FROM email_attachment ORDER BY 1, 2"
    )


class TestInPlace:
    def test_what_is_derived_is_replaced_and_all_else_stays(
        self, synced: Account, misread: Callable[..., None]
    ) -> None:
        right, kept, files = table(DERIVED), table(KEPT), attachments()
        misread()
        assert all(row[:-1] != right[message_id][:-1] for message_id, row in table(DERIVED).items())

        asked = ask(synced)
        done = reread(synced)

        assert (asked.messages, done.read, done.is_done) == (4, 4, True)
        assert table(DERIVED) == right
        assert table(KEPT) == kept
        assert attachments() == files
        assert outcomes() == {}
        assert_counts_agree()

    def test_every_column_is_one_of_the_two_kinds(self) -> None:
        from tasks.storage.models import EmailMessage

        assert sorted(DERIVED + KEPT) == sorted(EmailMessage.__table__.columns.keys())

    def test_what_the_present_parser_read_is_not_read_again(
        self, synced: Account, misread: Callable[..., None]
    ) -> None:
        misread("false")
        assert column("SELECT DISTINCT parser_version FROM email_message") == [PARSER_VERSION]
        assert ask(synced).messages == 0
        assert reread(synced).read == 0

    def test_a_message_id_that_was_missed_is_found_and_its_conversation_with_it(
        self, database: Database, account: Account, mailbox: Mailbox, misread: Callable[..., None]
    ) -> None:
        # Given a message whose header was taken for its body, and a reply to it
        mailbox.append([message(1), message(2, References="<1@example.org>"), message(3)])
        sync(account)
        conversations = dict(rows("SELECT imap_uid, conversation_id FROM email_message"))
        misread("imap_uid = 1", ", message_id = NULL, conversation_id = NULL")
        ask(account)

        assert reread(account).read == 1

        assert dict(rows("SELECT imap_uid, conversation_id FROM email_message")) == conversations
        assert column("SELECT message_id FROM email_message WHERE imap_uid = 1") == ["1@example.org"]

    def test_a_conversation_that_others_rely_on_stays(
        self, account: Account, mailbox: Mailbox, misread: Callable[..., None]
    ) -> None:
        mailbox.append([message(1), message(2, References="<1@example.org>")])
        sync(account)
        misread(more=", conversation_id = 'theirs'")
        ask(account)
        reread(account)
        assert column("SELECT DISTINCT conversation_id FROM email_message") == ["theirs"]


class TestAttachments:
    def test_the_same_file_keeps_its_id_under_its_right_name(
        self, database: Database, account: Account, mailbox: Mailbox, misread: Callable[..., None]
    ) -> None:
        mailbox.append([with_files(1, a=b"a", b=b"b")])
        sync(account)
        right = attachments()
        misread()
        # As an older parser might have: names garbled, in another order
        as_owner(database, "UPDATE email_attachment SET position = position + 5")
        as_owner(database, "UPDATE email_attachment SET filename = 'Ã' || filename, position = 7 - position")
        ask(account)
        reread(account)
        assert attachments() == right

    def test_of_two_files_with_the_same_content_each_keeps_its_id_by_its_name(
        self, database: Database, account: Account, mailbox: Mailbox, misread: Callable[..., None]
    ) -> None:
        # Given that an older parser saw only the last of three copies
        mailbox.append([with_files(1, a=b"same", b=b"same", c=b"same")])
        sync(account)
        misread()
        as_owner(database, "DELETE FROM email_attachment WHERE filename <> 'c.pdf'")
        as_owner(database, "UPDATE email_attachment SET position = 0")
        ((of_c, _),) = rows("SELECT id, position FROM email_attachment")
        ask(account)
        reread(account)
        assert column("SELECT filename FROM email_attachment ORDER BY position") == ["a.pdf", "b.pdf", "c.pdf"]
        assert column("SELECT id FROM email_attachment WHERE filename = 'c.pdf'") == [of_c]
        assert len(set(column("SELECT id FROM email_attachment"))) == 3

    def test_a_file_that_was_none_goes_and_one_that_was_missed_comes(
        self, database: Database, account: Account, mailbox: Mailbox, misread: Callable[..., None]
    ) -> None:
        mailbox.append([with_files(1, a=b"a"), with_files(2, a=b"a", b=b"b")])
        sync(account)
        right = [row[:2] + row[3:] for row in attachments()]
        (of_a,) = column("SELECT id FROM email_attachment WHERE filename = 'a.pdf' ORDER BY id LIMIT 1")
        misread()
        as_owner(database, "DELETE FROM email_attachment WHERE filename = 'b.pdf'")
        as_owner(database, "DELETE FROM blob WHERE sha256 NOT IN (SELECT storage_key FROM email_attachment)")
        as_owner(
            database,
            "INSERT INTO email_attachment (tenant_id, id, email_message_id, position, filename, mime_type, size, "
            "is_inline, storage_key) SELECT tenant_id, 'none', email_message_id, 1, 'none', 'x/y', 1, false, "
            "storage_key FROM email_attachment WHERE id = %s",
            of_a,
        )
        ask(account)
        reread(account)
        assert [row[:2] + row[3:] for row in attachments()] == right
        assert of_a in column("SELECT id FROM email_attachment")
        assert column("SELECT count(*) FROM blob") == [2]


class TestNotOnTheServer:
    def test_a_message_that_is_gone_stays_is_counted_and_not_asked_for_again(
        self, synced: Account, mailbox: Mailbox, misread: Callable[..., None], database: Database
    ) -> None:
        misread()
        spoiled = table(DERIVED)
        (gone,) = column("SELECT id FROM email_message WHERE message_id = '2@example.org'")
        mailbox.expunge("2")
        ask(synced)

        done = reread(synced)

        assert (done.read, done.gone) == (3, 1)
        assert table(DERIVED)[gone] == spoiled[gone]
        assert outcomes() == {gone: "gone"}
        assert rereading.counts(synced) == (1, 0, 1, 0, 0)
        a_new_hour(database)
        assert ask(synced).messages == 0
        assert reread(synced).gone == 0

    def test_a_uid_that_is_another_message_now_is_not_replaced(
        self, account: Account, mailbox: Mailbox, misread: Callable[..., None]
    ) -> None:
        mailbox.append(message(n) for n in range(1, 10))
        sync(account)
        later = "received_at = received_at + interval '1 second'"
        misread("imap_uid <= 8")
        misread("imap_uid = 1", ", message_id = 'other@example.org'")
        misread("imap_uid = 2", f", {later}, size = size + 1")
        misread("imap_uid = 3", ", size = size + 1, message_id = NULL")
        misread("imap_uid = 4", f", {later}, message_id = NULL")
        # These are the same for all that is known.
        misread("imap_uid = 5", ", size = size + 1")
        misread("imap_uid = 6", f", {later}")
        misread("imap_uid = 7", ", message_id = NULL, received_at = NULL")
        misread("imap_uid = 8", ", message_id = NULL, received_at = received_at + interval '0.5 second'")
        spoiled = table(("imap_uid", *DERIVED))
        ask(account)

        done = reread(account)

        assert (done.read, done.other) == (4, 4)
        now = table(("imap_uid", *DERIVED))
        assert all(now[message_id] == row for message_id, row in spoiled.items() if row[0] in (1, 2, 3, 4))
        assert column("SELECT imap_uid FROM email_message WHERE parser_version = 1 ORDER BY 1") == [1, 2, 3, 4]
        assert column("SELECT count(*) FROM email_message WHERE received_at IS NULL") == [0]
        assert set(outcomes().values()) == {"other"}

    def test_a_folder_whose_uidvalidity_changed_is_left_to_the_next_sync(
        self, account: Account, mailbox: Mailbox, misread: Callable[..., None], database: Database
    ) -> None:
        mailbox.create("Work")
        mailbox.append([message(1), message(2)], "Work")
        mailbox.append([message(3)])
        sync(account)
        misread()
        ask(account)
        mailbox.remove("Work")
        mailbox.create("Work")
        mailbox.append([message(8), message(9)], "Work")

        done = reread(account)

        assert (done.read, done.left, done.gone, done.other) == (1, 2, 0, 0)
        assert list(outcomes().values()) == [None, None]

    def test_a_folder_that_is_gone_is_left_to_the_next_sync(
        self, account: Account, mailbox: Mailbox, misread: Callable[..., None]
    ) -> None:
        mailbox.create("Work")
        mailbox.append([message(1)], "Work")
        sync(account)
        misread()
        ask(account)
        mailbox.remove("Work")
        assert reread(account).left == 1
        sync(account)
        assert outcomes() == {}


class TestBounds:
    def test_no_more_messages_in_an_hour_than_the_setting_says(
        self, database: Database, account: Account, mailbox: Mailbox, misread: Callable[..., None],
        environment: Callable[..., None],
    ) -> None:  # fmt: skip
        environment(REREAD_MESSAGES_PER_HOUR="3")
        mailbox.append(message(n) for n in range(1, 8))
        sync(account)
        misread()
        ask(account)

        assert [reread(account).read for _ in range(3)] == [3, 0, 0]
        a_new_hour(database)
        assert [reread(account).read for _ in range(2)] == [3, 0]
        a_new_hour(database)
        assert reread(account).read == 1

    def test_no_more_bytes_in_an_hour_and_a_larger_message_has_one_of_its_own(
        self, database: Database, account: Account, mailbox: Mailbox, misread: Callable[..., None],
        environment: Callable[..., None],
    ) -> None:  # fmt: skip
        environment(REREAD_BYTES_PER_HOUR="65536")
        mailbox.append(message(n, body="x" * 30_000) for n in (1, 2, 3))
        mailbox.append([message(4, body="x" * 70_000)])
        sync(account)
        misread()
        ask(account)

        done = []
        for _ in range(4):
            done.append(reread(account).read)
            assert reread(account).read == 0
            a_new_hour(database)
        assert done == [1, 2, 1, 0]

    def test_the_newest_come_first(
        self, account: Account, mailbox: Mailbox, misread: Callable[..., None], environment: Callable[..., None]
    ) -> None:
        environment(REREAD_MESSAGES_PER_HOUR="2")
        mailbox.append(message(n) for n in range(1, 6))
        sync(account)
        misread()
        ask(account)
        reread(account)
        assert column("SELECT imap_uid FROM email_message WHERE parser_version > 1 ORDER BY 1") == [4, 5]


class TestSetAside:
    def test_what_no_parser_could_read_is_fetched_again_by_the_next_sync(
        self, database: Database, account: Account, mailbox: Mailbox
    ) -> None:
        mailbox.append([message(1), message(2)])
        sync(account)
        as_owner(
            database,
            "WITH gone AS (DELETE FROM email_message WHERE imap_uid = 2 RETURNING *) "
            "INSERT INTO raw_quarantine (tenant_id, id, email_client_id, folder_id, uidvalidity, imap_uid, reason, "
            "detail, size, raw) SELECT tenant_id, id, email_client_id, folder_id, uidvalidity, imap_uid, "
            "'unparsable', '', size, '' FROM gone",
        )
        as_owner(database, "UPDATE email_folder SET total_count = 1, unread_count = 1 WHERE type = 'inbox'")
        assert sync(account).total("synced") == 0

        assert ask(account, dry_run=True) == (0, 1)
        assert ask(account) == (0, 1)

        assert sync(account).total("synced") == 1
        assert column("SELECT imap_uid FROM email_message ORDER BY 1") == [1, 2]
        assert_counts_agree()


def test_labels_and_threads_of_gmail_stay(database: Database, misread: Callable[..., None]) -> None:
    with GmailServer() as server:
        account = register(server)
        sync(account)
        kept, right = table(KEPT), table(DERIVED)
        misread()
        ask(account)
        assert reread(account).read == len(kept) == 5
    assert table(KEPT) == kept
    assert table(DERIVED) == right


def test_a_message_that_is_too_large_by_now_stays_as_it_is(
    synced: Account, mailbox: Mailbox, misread: Callable[..., None], environment: Callable[..., None]
) -> None:
    mailbox.append([message(5, body="x" * 70_000)])
    sync(synced)
    environment(SYNC_MAX_MESSAGE_BYTES="65536")
    misread()
    ask(synced)

    done = reread(synced)

    assert (done.read, done.unreadable, done.gone) == (4, 1, 0)
    assert column("SELECT message_id FROM email_message WHERE parser_version = 1") == ["5@example.org"]
    assert "SYNC_MAX_MESSAGE_BYTES is 65536" in str(column("SELECT detail FROM rereading"))


def test_a_score_stays_where_the_check_is_switched_off_by_now(
    account: Account, mailbox: Mailbox, misread: Callable[..., None], environment: Callable[..., None]
) -> None:
    mailbox.append([message(1)])
    sync(account)
    environment(SPAM_CHECK_ENABLED="false")
    misread()
    ask(account)
    assert reread(account).read == 1
    assert rows("SELECT spam_score, spam_indicators FROM email_message") == [(1.0, [{"rule": "misread"}])]
