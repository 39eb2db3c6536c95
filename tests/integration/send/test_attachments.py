"""Stored attachments go out again, if they are the caller's own."""

import pytest

from tasks.errors import NotFoundError
from tasks.mail.parse import parse
from tasks.storage.accounts import Account
from tests.conftest import Database, sync
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
