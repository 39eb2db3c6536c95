"""Stored attachments go out again, if they are the caller's own."""

import tracemalloc
from collections.abc import Callable

import pytest

from tasks.errors import MessageInvalidError, NotFoundError
from tasks.mail.parse.message import parse
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, Database, sync
from tests.integration.send.conftest import Send, sending_account
from tests.support.mailbox import Mailbox, message
from tests.support.smtp_server import SmtpServer
from tests.support.stored import column, rows


@pytest.fixture
def account(database: Database, mailbox: Mailbox, smtp: SmtpServer) -> Account:
    """It has received two files."""
    as_file = message(1, body="first").replace(b'text/plain; charset="utf-8"', b'application/pdf; name="a.pdf"')
    mailbox.append([as_file, as_file.replace(b"first", b"second").replace(b"a.pdf", b"b.pdf")])
    account = sending_account(mailbox, smtp)
    sync(account)
    return account


def test_files_go_out_in_the_order_asked_for(account: Account, smtp: SmtpServer, send_once: Send) -> None:
    by_name = dict(rows("SELECT filename, id FROM email_attachment"))
    send_once(account, attachment_ids=[by_name["b.pdf"], by_name["a.pdf"]])

    files = parse(smtp.messages[0].raw).attachments
    assert [(f.filename, f.mime_type, f.content.strip()) for f in files] == [
        ("b.pdf", "application/pdf", b"second"),
        ("a.pdf", "application/pdf", b"first"),
    ]


def test_one_that_is_not_there_or_not_the_users_is_not_found(
    account: Account, smtp: SmtpServer, send_once: Send
) -> None:
    (first, *_) = column("SELECT id FROM email_attachment")
    with pytest.raises(NotFoundError, match="attachment none"):
        send_once(account, attachment_ids=[first, "none"])
    # Given that the mailbox it came to is another user's, and that this user has an account too
    rows("UPDATE email_client SET user_id = 'user-2' RETURNING 1")
    own = sending_account(Mailbox("127.0.0.1", 9, "eve", "x"), smtp, name="own")
    with pytest.raises(NotFoundError, match="attachment"):
        send_once(own, attachment_ids=[first])

    assert smtp.messages == []


@pytest.fixture
def files(database: Database, mailbox: Mailbox, smtp: SmtpServer) -> dict[str, str]:
    """Ids by file name: a document of 1.4 MB, and a message that was forwarded."""
    document = message(1, body="x" * 70 * 20_000)
    forwarded = message(
        2, body="From: eve@example.net\r\nSubject: a forwarded one\r\n\r\n" + f"{'y' * 88}\r\n" * 1000
    )
    plain = b'text/plain; charset="utf-8"'
    mailbox.append(
        [
            document.replace(plain, b'application/pdf; name="a.pdf"'),
            forwarded.replace(plain, b'message/rfc822; name="a.eml"'),
        ]
    )
    sync(sending_account(mailbox, smtp))
    return dict(rows("SELECT filename, id FROM email_attachment"))


def test_files_too_large_for_a_message_are_not_loaded(
    files: dict[str, str], smtp: SmtpServer, send_once: Send, environment: Callable[..., None]
) -> None:
    environment(SMTP_MAX_MESSAGE_BYTES="65536")
    tracemalloc.start()
    try:
        with pytest.raises(MessageInvalidError, match="at least 112,"):
            send_once(find_account(TENANT, "mail"), attachment_ids=[files["a.pdf"]] * 60)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 1_400_000
    assert rows("SELECT 1 FROM outbox_message") == []


def test_a_file_named_twice_goes_twice(files: dict[str, str], smtp: SmtpServer, send_once: Send) -> None:
    send_once(find_account(TENANT, "mail"), attachment_ids=[files["a.eml"]] * 2)

    assert smtp.messages[0].raw.count(b"Subject: a forwarded one") == 2


def test_a_forwarded_message_is_measured_as_it_goes_out(
    files: dict[str, str], smtp: SmtpServer, send_once: Send, environment: Callable[..., None]
) -> None:
    # 90 kB, which in base64 would be 120
    environment(SMTP_MAX_MESSAGE_BYTES="100000")
    send_once(find_account(TENANT, "mail"), attachment_ids=[files["a.eml"]])

    assert 90_000 < len(smtp.messages[0].raw) < 100_000


def test_whatever_is_stored_of_a_file_makes_no_line_too_long(
    account: Account, smtp: SmtpServer, send_once: Send
) -> None:
    """A server of RFC 5321 refuses lines of more than 998 characters, or cuts them."""
    long = "x" * 2000
    rows(
        f"UPDATE email_attachment SET content_id = '{long}', mime_type = 'text/{long}', filename = '{long}.pdf' "
        "WHERE filename = 'a.pdf' RETURNING 1"
    )
    ids = column("SELECT id FROM email_attachment")
    send_once(
        account, attachment_ids=ids, subject=long, body_html=f'<img src="cid:{long}">', to=f"{long} <bob@example.net>"
    )

    [taken] = smtp.messages
    assert max(map(len, taken.raw.split(b"\r\n"))) <= 998
    found = parse(taken.raw)
    assert found.subject == found.to[0].name == long
    assert {file.content.strip() for file in found.attachments} == {b"first", b"second"}
    assert {"b.pdf", f"{long[:251]}.pdf"} == {file.filename for file in found.attachments}
