"""Addresses and names as people have them go out, and are read back as they were given."""

from email import message_from_bytes, policy
from email.utils import unquote

import pytest

from tasks.errors import MessageInvalidError
from tasks.mail.parse.message import parse
from tasks.storage.accounts.rows import Account
from tests.integration.send.conftest import Send, sending_account
from tests.support.mailbox import Mailbox
from tests.support.smtp_server import SmtpServer
from tests.support.stored import rows

NAMES = [
    "山田　太郎",
    "Bob\xa0Doe",
    "Doe, Bob \"B\" <x@y> (z); \\ : 'q'",
    "शक्ति क्\u200cष र\u200dय",
    "שלום\u200e עולם",
    "co\xadop",
    "👨\u200d👩\u200d👧 \U0001fae9",
    "=?utf-8?q?x?=",
    "ﾔﾏﾀﾞ" * 30,
]
LOCAL_PARTS = ["try..this", "abc.", ".abc", "a.-b..c."]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_is_read_back_as_it_was_given(sender: Account, smtp: SmtpServer, send_once: Send, name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    send_once(sender, to=[f'"{quoted}" <taro@example.jp>', "eve@example.net"])

    (taken,) = smtp.messages
    assert taken.recipients == ("taro@example.jp", "eve@example.net")
    assert [tuple(address) for address in parse(taken.raw).to] == [(name, "taro@example.jp"), ("", "eve@example.net")]
    theirs, _ = message_from_bytes(taken.raw, policy=policy.default)["To"].addresses
    # Python 3.11 puts a space between two encoded words of a name.
    assert theirs.display_name.replace(" ", "") == name.replace(" ", "")
    assert theirs.addr_spec == "taro@example.jp"


@pytest.mark.parametrize("local", LOCAL_PARTS)
def test_a_local_part_that_is_no_dot_string_is_quoted(
    sender: Account, smtp: SmtpServer, send_once: Send, local: str
) -> None:
    """In the envelope and in the header (RFC 5321 section 4.1.2, RFC 5322 section 3.4.1)."""
    send_once(sender, to=f"Taro <{local}@docomo.ne.jp>", cc=[f"{local}@ezweb.ne.jp"])

    (taken,) = smtp.messages
    assert taken.recipients == (f'"{local}"@docomo.ne.jp', f'"{local}"@ezweb.ne.jp')
    found = parse(taken.raw)
    assert [tuple(address) for address in found.to + found.cc] == [
        ("Taro", f'"{local}"@docomo.ne.jp'),
        ("", f'"{local}"@ezweb.ne.jp'),
    ]
    (theirs,) = message_from_bytes(taken.raw, policy=policy.default)["To"].addresses
    assert (theirs.display_name, unquote(theirs.username), theirs.domain) == ("Taro", local, "docomo.ne.jp")


def test_such_an_account_sends_too(smtp: SmtpServer, send_once: Send, database: object) -> None:
    account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp, email_address="abc.@ezweb.ne.jp")

    assert send_once(account).state == "sent"
    assert smtp.messages[0].sender == '"abc."@ezweb.ne.jp'
    assert parse(smtp.messages[0].raw).from_[0].address == '"abc."@ezweb.ne.jp'


def test_unseen_blanks_around_addresses_are_trimmed(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    send_once(sender, to="bob@example.net,\teve@example.net,\n\u200bdan@example.net,\xa0\ufeffjo@example.net\r\n")

    assert smtp.messages[0].recipients == ("bob@example.net", "eve@example.net", "dan@example.net", "jo@example.net")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("Bob\r\nBcc: eve@example.net <bob@example.net>", r"holds a line end, U\+000D"),
        ("Bob\u2028Doe <bob@example.net>", r"holds a line end, U\+2028"),
        ("bo\u200bb@example.net", r"U\+200B ZERO WIDTH SPACE"),
        ("bob@example.net>\r\nRCPT TO:<eve@example.net", "addresses are separated by commas"),
    ],
)
def test_what_is_refused_is_named_and_nothing_goes_out(
    sender: Account, smtp: SmtpServer, send_once: Send, address: str, why: str
) -> None:
    with pytest.raises(MessageInvalidError, match=why):
        send_once(sender, to=[address])

    assert smtp.messages == []
    assert rows("SELECT 1 FROM outbox_message") == []
