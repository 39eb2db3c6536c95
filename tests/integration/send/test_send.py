"""A message goes out as it was asked for, to whom it was asked for."""

import hashlib
import json
from collections.abc import Callable

import pytest

from tasks.errors import (
    DeliveryFailedError,
    DeliveryWaitsError,
    IdempotencyConflictError,
    MailServerBusyError,
    MessageInvalidError,
    MessageRefusedError,
    NotFoundError,
    SmtpServerMissingError,
)
from tasks.mail.parse.message import parse
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, Database, register
from tests.integration.send.conftest import Send, let_it_be_due, row, sending_account
from tests.support.mailbox import Mailbox
from tests.support.smtp_server import SmtpServer, drop, reply
from tests.support.stored import column, rows


def test_a_message_with_everything(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    outgoing = send_once(
        sender,
        to=["Bób <bob@example.net>", "Eve <eve@example.net>"],
        cc="carol@example.net",
        bcc=["dan@example.net", "bob@EXAMPLE.net"],
        subject="Grüße",
        body_text="Hallo\n.\n..Punkt\n",
        body_html="<p>Hallo</p>",
    )

    (taken,) = smtp.messages
    assert taken.sender == "ada@example.org"
    assert taken.recipients == ("bob@example.net", "eve@example.net", "carol@example.net", "dan@example.net")
    assert f"SIZE={len(taken.raw)}" in taken.parameters
    message = parse(taken.raw)
    assert [a.name for a in message.to] == ["Bób", "Eve"]
    assert (message.subject, message.text_body) == ("Grüße", "Hallo\n.\n..Punkt\n")
    assert message.html_body is not None
    assert message.message_id == outgoing.message_id
    assert message.date == outgoing.created_at
    assert b"dan@" not in taken.raw
    assert outgoing.state == "sent"
    assert row("raw") is None


def test_each_run_of_a_task_is_the_same_message(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    first, second = send_once(sender), send_once(sender)

    assert first.message_id == second.message_id
    assert len(smtp.messages) == 1


def test_an_idempotency_key_is_one_message(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    first = send_once(sender, "task-1", key="key:order 7", subject="a")
    second = send_once(sender, "task-2", key="key:order 7", subject="a")
    assert first.id == second.id
    with pytest.raises(IdempotencyConflictError):
        send_once(sender, "task-3", key="key:order 7", subject="b")

    assert len(smtp.messages) == 1


def test_refused_recipients_are_told_and_the_others_get_it_once(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    smtp.on("rcpt", reply("550 5.1.1 no such user"), where=b"nobody@")
    smtp.on("rcpt", reply("450 4.2.1 later"), where=b"later@")
    to = ["bob@example.net", "nobody@example.net", "later@example.net"]

    with pytest.raises(MailServerBusyError, match=r"later@example\.net: 450 4\.2\.1 later"):
        send_once(sender, to=to)
    outgoing = send_once(sender, to=to)

    assert [taken.recipients for taken in smtp.messages] == [("bob@example.net",), ("later@example.net",)]
    assert smtp.messages[0].raw == smtp.messages[1].raw
    assert outgoing.state == "sent"
    assert outgoing.addresses("accepted") == ["bob@example.net", "later@example.net"]
    assert [(r.address, r.reply) for r in outgoing.recipients if r.state == "refused"] == [
        ("nobody@example.net", "550 5.1.1 no such user")
    ]


SAME = [
    {"to": "bob@example.net, Eve <eve@example.net>"},
    {"to": ["bob@example.net", '"Eve" <eve@example.net>']},
    {"cc": []},
    {"cc": "", "bcc": None, "subject": None, "body_html": "", "attachment_ids": ()},
]
OTHER = [
    {"to": ["Eve <eve@example.net>", "bob@example.net"]},
    {"to": ["bob@example.net", "Adam <eve@example.net>"]},
    {"to": ["bob@example.net"], "cc": ["Eve <eve@example.net>"]},
    {"bcc": "dan@example.net"},
    {"body_text": "Hello"},
    {"attachment_ids": ["1"]},
]


@pytest.mark.parametrize("written", SAME)
def test_the_same_message_written_otherwise_is_the_same(
    sender: Account, smtp: SmtpServer, send_once: Send, written: dict[str, object]
) -> None:
    plain = {"to": ["bob@example.net", "Eve <eve@example.net>"], "subject": ""}
    first = send_once(sender, "task-1", key="key:k", **plain)
    second = send_once(sender, "task-2", key="key:k", **{**plain, **written})

    assert first.id == second.id
    assert len(smtp.messages) == 1


@pytest.mark.parametrize("changed", OTHER)
def test_another_message_is_not_the_same(
    sender: Account, smtp: SmtpServer, send_once: Send, changed: dict[str, object]
) -> None:
    plain = {"to": ["bob@example.net", "Eve <eve@example.net>"], "subject": ""}
    send_once(sender, "task-1", key="key:k", **plain)
    with pytest.raises(IdempotencyConflictError):
        send_once(sender, "task-2", key="key:k", **{**plain, **changed})

    assert len(smtp.messages) == 1


def test_a_message_of_the_release_before_is_found_and_it_finds_ours(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    # Given a message on its way of a release that knows only what the arguments are as they were written
    smtp.on("dot", reply("451 4.3.0 not now"))
    with pytest.raises(MailServerBusyError):
        send_once(sender, to="bob@example.net")
    given = [sender.id, sender.tenant_id, sender.user_id, "bob@example.net"]
    given += [None, None, "task-1", "Hello.", None, None]
    assert column("SELECT digest FROM outbox_message") == [hashlib.sha256(json.dumps(given).encode()).hexdigest()]
    rows("UPDATE outbox_message SET content_digest = NULL RETURNING 1")

    # When the task is delivered again
    assert send_once(sender, to="bob@example.net").state == "sent"
    with pytest.raises(IdempotencyConflictError):
        send_once(sender, to="eve@example.net")


def test_recipients_too_many_for_one_transaction_get_it_in_further_ones(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    def refuse_the_third() -> str | None:
        begun = max(at for at, line in enumerate(smtp.received) if line.startswith(b"MAIL"))
        return "552 too many recipients" if len(smtp.received) - begun > 3 else None

    smtp.on("rcpt", refuse_the_third, times=None)
    to = [f"user{number}@example.net" for number in range(5)]

    for _ in range(2):
        with pytest.raises(MailServerBusyError, match="552"):
            send_once(sender, to=to)
    outgoing = send_once(sender, to=to)

    assert [taken.recipients for taken in smtp.messages] == [tuple(to[:2]), tuple(to[2:4]), tuple(to[4:])]
    assert (outgoing.state, outgoing.addresses("accepted")) == ("sent", to)


def test_a_recipient_refused_for_now_too_long_is_given_up(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    smtp.on("rcpt", reply("450 4.2.1 later"), where=b"later@", times=None)
    to = ["bob@example.net", "later@example.net"]

    for _ in range(3):
        with pytest.raises(MailServerBusyError):
            send_once(sender, to=to)
    with pytest.raises(DeliveryWaitsError, match=r"450 4\.2\.1 later"):
        send_once(sender, to=to)
    let_it_be_due(age="2 days")
    outgoing = send_once(sender, to=to)

    assert [taken.recipients for taken in smtp.messages] == [("bob@example.net",)]
    assert (outgoing.state, outgoing.addresses("refused")) == ("sent", ["later@example.net"])


FOR_GOOD = {
    "the sender": ("mail", "550 5.7.1 you may not"),
    "the only recipient": ("rcpt", "550 5.1.1 no such user"),
    "the data": ("data", "554 5.5.1 no"),
    "the message": ("dot", "554 5.6.0 spam"),
}


@pytest.mark.parametrize(("point", "words"), FOR_GOOD.values(), ids=FOR_GOOD)
def test_what_is_refused_for_good_is_told_in_the_servers_words(
    sender: Account, smtp: SmtpServer, send_once: Send, point: str, words: str
) -> None:
    smtp.on(point, reply(words))

    with pytest.raises(MessageRefusedError, match=words):
        send_once(sender)
    assert row() == "failed"
    # Asked for again it is the same message: nobody had it
    outgoing = send_once(sender)

    assert [outgoing.message_id] == [id_.strip("<>") for id_ in smtp.taken("Message-ID")]


@pytest.mark.parametrize("point", ["connect", "mail", "rcpt", "data", "dot"])
def test_what_is_refused_for_now_is_tried_again_and_then_given_up(
    sender: Account, smtp: SmtpServer, send_once: Send, point: str
) -> None:
    smtp.on(point, reply("451 4.3.0 not now"), times=None)

    for _ in range(2):
        with pytest.raises(MailServerBusyError, match=r"451 4\.3\.0 not now"):
            send_once(sender)
        assert row() == "queued"
    with pytest.raises(DeliveryWaitsError, match=r"451 4\.3\.0 not now"):
        send_once(sender)
    assert row() == "queued"
    let_it_be_due(age="2 days")
    with pytest.raises(DeliveryFailedError, match=r"451 4\.3\.0 not now"):
        send_once(sender)

    assert row() == "failed"
    assert smtp.messages == []


def test_without_pipelining_the_conversation_is_one_by_one(database: Database, send_once: Send) -> None:
    with SmtpServer(("AUTH LOGIN",)) as smtp:
        smtp.on("rcpt", reply("550 no"), where=b"eve@")
        account = sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)
        outgoing = send_once(account, to=["eve@example.net", "bob@example.net"])

    assert outgoing.addresses("accepted") == ["bob@example.net"]
    assert smtp.messages[0].parameters == ""


def test_with_pipelining_the_server_is_waited_for_once(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    # Given a server that answers nothing before it has seen DATA
    smtp.holds_answers = True

    send_once(sender, to=["bob@example.net", "eve@example.net"])
    assert smtp.messages[0].recipients == ("bob@example.net", "eve@example.net")


def test_one_connection_serves_many_messages(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    for number in range(5):
        send_once(sender, f"task-{number}")

    assert (smtp.connections, smtp.logins, len(smtp.messages)) == (1, 1, 5)


ENDS = {
    "hung up": lambda smtp: smtp.hang_up(),
    "says so at the next message": lambda smtp: smtp.on("mail", reply("421 4.7.0 too many messages")),
    "drops at the next message": lambda smtp: smtp.on("mail", drop),
    "refuses more on this connection": lambda smtp: smtp.on("mail", reply("452 4.7.0 too many messages")),
    "forgot the greeting at MAIL": lambda smtp: smtp.on("mail", reply("503 5.5.1 Error: send HELO/EHLO first")),
    "forgot the greeting at RCPT": lambda smtp: smtp.on("rcpt", reply("503 5.5.1 Error: send HELO/EHLO first")),
    "forgot the greeting at DATA": lambda smtp: smtp.on("data", reply("503 5.5.1 Error: send HELO/EHLO first")),
    "timed out": lambda smtp: smtp.on("mail", reply("550 session timed out")),
    "forgot the login": lambda smtp: smtp.on("rcpt", reply("554 5.7.1 Relay access denied")),
    "goodbye at RCPT": lambda smtp: smtp.on("rcpt", reply("421 4.4.2 timeout")),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_connection_that_came_to_its_end_is_replaced(
    sender: Account, smtp: SmtpServer, send_once: Send, end: Callable[[SmtpServer], object]
) -> None:
    send_once(sender, "task-1")
    end(smtp)
    send_once(sender, "task-2")

    assert smtp.taken() == ["task-1", "task-2"]
    assert smtp.connections == 2


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("point", ["mail", "rcpt", "data"])
def test_what_a_fresh_connection_refuses_too_is_refused(
    sender: Account, smtp: SmtpServer, send_once: Send, point: str, pipelining: bool
) -> None:
    if not pipelining:
        smtp.extensions = ("AUTH PLAIN",)
    send_once(sender, "task-1")
    smtp.on(point, reply("554 5.7.1 not from you"), times=None)

    with pytest.raises(MessageRefusedError):
        send_once(sender, "task-2")

    assert (smtp.connections, smtp.taken()) == (2, ["task-1"])


@pytest.mark.parametrize(
    ("point", "words", "where"),
    [
        ("rcpt", "550 5.1.1 no such user", b""),  # what the address is does not depend on the connection
        ("dot", "554 5.7.1 spam", b""),  # and after the data nothing is tried twice
    ],
)
def test_what_is_not_the_connections_fault_is_not_tried_on_another(
    sender: Account, smtp: SmtpServer, send_once: Send, point: str, words: str, where: bytes
) -> None:
    send_once(sender, "task-1")
    smtp.on(point, reply(words), where=where, times=None)

    with pytest.raises(MessageRefusedError):
        send_once(sender, "task-2")

    assert smtp.connections == 1


def test_a_first_message_that_is_refused_is_not_tried_again(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    smtp.on("mail", reply("503 5.5.1 Error: send HELO/EHLO first"), times=None)
    with pytest.raises(MessageRefusedError):
        send_once(sender, "task-1")
    assert smtp.connections == 1


def test_one_refused_recipient_of_two_is_refused_and_the_other_gets_it_once(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    send_once(sender, "task-1")
    smtp.on("rcpt", reply("554 5.7.1 not you"), where=b"eve", times=None)
    sent = send_once(sender, "task-2", to=["bob@example.net", "eve@example.net"])
    assert [recipient.state for recipient in sent.recipients] == ["accepted", "refused"]
    assert (smtp.connections, smtp.taken()) == (1, ["task-1", "task-2"])


def test_a_message_larger_than_the_server_takes_is_not_offered(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    smtp.extensions = ("SIZE 2000", "AUTH PLAIN")

    with pytest.raises(MessageRefusedError, match="2,000 at most"):
        send_once(sender, body_text="x" * 3000)

    assert not any(line.startswith(b"MAIL") for line in smtp.received)


def test_a_message_larger_than_the_settings_allow_is_not_taken(
    sender: Account, smtp: SmtpServer, send_once: Send, environment: Callable[..., None]
) -> None:
    # Given a message that has the largest size to the byte
    send_once(sender, "task-1", body_text="x" * 68 + "\n")
    environment(SMTP_MAX_MESSAGE_BYTES="65536")
    lines, rest = divmod(65536 - len(smtp.messages[0].raw), 70)
    body = ("x" * 68 + "\n") * lines + "x" * (68 + rest) + "\n"

    send_once(sender, "task-2", body_text=body)
    with pytest.raises(MessageInvalidError, match="65,537 bytes, and SMTP_MAX_MESSAGE_BYTES is 65,536"):
        send_once(sender, "task-3", body_text="x" + body)

    assert [len(taken.raw) for taken in smtp.messages[1:]] == [65536]
    assert len(rows("SELECT 1 FROM outbox_message")) == 2


def test_addresses_beyond_ascii(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    send_once(sender, "task-1", to="bob@müller.example")
    send_once(sender, "task-2", to="bøb@example.net")
    smtp.extensions = ("AUTH PLAIN",)
    smtp.hang_up()
    with pytest.raises(MessageRefusedError, match="SMTPUTF8"):
        send_once(sender, "task-3", to="bøb@example.net")

    assert smtp.messages[0].recipients == ("bob@xn--mller-kva.example",)
    assert "SMTPUTF8" not in smtp.messages[0].parameters
    assert smtp.messages[1].recipients == ("bøb@example.net",)
    assert "BODY=8BITMIME SMTPUTF8" in smtp.messages[1].parameters


def test_a_message_in_copy_to_an_address_beyond_ascii_that_was_served_still_needs_smtputf8(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    smtp.on("rcpt", reply("450 later"), where=b"carol@")
    to = ["bøb@example.net", "carol@example.net"]
    with pytest.raises(MailServerBusyError):
        send_once(sender, to=to)
    send_once(sender, to=to)

    assert all("SMTPUTF8" in taken.parameters for taken in smtp.messages)


INVALID = {
    "no recipient": {"to": []},
    "not an address": {"to": ["bob"]},
    "a command in an address": {"to": ["bob@example.net>\r\nRCPT TO:<eve@example.net"]},
    "a key that is too long": {"key": "key:" + "x" * 300},
}


@pytest.mark.parametrize("wrong", INVALID.values(), ids=INVALID)
def test_what_cannot_be_sent_leaves_nothing_behind(
    sender: Account, smtp: SmtpServer, send_once: Send, wrong: dict[str, object]
) -> None:
    with pytest.raises(MessageInvalidError):
        send_once(sender, **wrong)

    assert rows("SELECT 1 FROM outbox_message") == []
    assert smtp.connections == 0


def test_an_account_of_somebody_else_is_not_found(sender: Account, send_once: Send) -> None:
    for changes in ({"user_id": "user-2"}, {"tenant_id": "tenant-2"}, {"id": "none"}):
        with pytest.raises(NotFoundError):
            send_once(sender._replace(**changes))


def test_an_account_without_an_smtp_server_says_so(database: Database, send_once: Send) -> None:
    account = register(Mailbox("127.0.0.1", 9, "ada", "x"), email_address="ada@example.org")

    with pytest.raises(SmtpServerMissingError):
        send_once(account)


def test_the_account_is_not_paused_by_a_server_that_refuses_a_message(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    smtp.on("mail", reply("550 no"))
    with pytest.raises(MessageRefusedError):
        send_once(sender)

    assert find_account(TENANT, "mail").paused_at is None
