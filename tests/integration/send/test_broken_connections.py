"""The server dies at any point of a message: it is sent once, or it is unknown and waits; never twice, never lost."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest

from tasks.engine.send import notes
from tasks.errors import (
    DeliveryInterruptedError,
    DeliveryUnderWayError,
    DeliveryUnknownError,
    DeliveryWaitsError,
    MailServerBusyError,
    MailServerUnavailableError,
)
from tasks.mail.smtp.commands import SmtpConnection
from tasks.storage.accounts.rows import Account
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT
from tests.integration.send.conftest import Send, let_it_be_due, row
from tests.support.smtp_server import POINTS, SmtpServer, drop, reply, slowly
from tests.support.stored import rows

KilledAt = Callable[[str], AbstractContextManager[None]]


class KilledError(BaseException):
    """Nothing of ours may run after this, as after SIGKILL."""


BEFORE_DATA = POINTS[: POINTS.index("data answered")]


@pytest.mark.parametrize("point", BEFORE_DATA)
def test_a_server_that_dies_before_the_data_gets_it_again(
    sender: Account, smtp: SmtpServer, send_once: Send, point: str
) -> None:
    smtp.on(point, drop)
    with suppress(MailServerUnavailableError):  # or a second connection made up for it at once
        send_once(sender)
    send_once(sender)

    assert len(smtp.messages) == 1
    assert row() == "sent"


@pytest.mark.parametrize("point", ["data answered", "content"])
def test_a_server_that_dies_in_the_data_gets_it_again_if_we_saw_it_die_before_the_end(
    sender: Account, smtp: SmtpServer, send_once: Send, point: str
) -> None:
    smtp.on(point, drop)
    with suppress(MailServerUnavailableError, DeliveryInterruptedError):
        send_once(sender)
    with suppress(MailServerUnavailableError):  # where the mailbox should be
        send_once(sender)

    # The end may have been on its way when the server died
    assert (row(), len(smtp.messages)) in [("sent", 1), ("unknown", 0)]


@pytest.mark.parametrize(("point", "arrived"), [("dot", 0), ("accepted", 1)])
def test_after_the_end_of_the_data_it_is_unknown_and_never_sent_again(
    sender: Account, smtp: SmtpServer, send_once: Send, point: str, arrived: int
) -> None:
    smtp.on(point, drop)

    with pytest.raises(DeliveryInterruptedError):
        send_once(sender)
    assert row() == "unknown"
    for _ in range(2):
        with pytest.raises(MailServerUnavailableError):  # its mailbox, where the message could be looked for
            send_once(sender)
    # For as long as mail is tried; a person may decide at any time
    with pytest.raises(DeliveryWaitsError):
        send_once(sender)
    let_it_be_due(age="2 days")
    for _ in range(2):
        with pytest.raises(DeliveryUnknownError):
            send_once(sender)

    assert row() == "unknown"
    assert len(smtp.messages) == arrived


def test_an_answer_that_takes_too_long_is_unknown_too(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    smtp.on("accepted", slowly(4))  # SMTP_TIMEOUT is 1 s, and this answer has three times as long

    with pytest.raises(DeliveryInterruptedError):
        send_once(sender)

    assert row() == "unknown"


def test_a_slow_answer_is_waited_for(sender: Account, smtp: SmtpServer, send_once: Send) -> None:
    smtp.on("accepted", slowly(2))

    assert send_once(sender).state == "sent"


@pytest.mark.parametrize("words", ["354 what", "999 what", "what"])
def test_an_answer_that_means_nothing_is_unknown(
    sender: Account, smtp: SmtpServer, send_once: Send, words: str
) -> None:
    smtp.on("accepted", reply(words))

    with pytest.raises(DeliveryInterruptedError):
        send_once(sender)

    assert row() == "unknown"


def test_data_answered_as_if_the_message_were_there_is_no_success(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    smtp.on("data", reply("250 thanks"))

    with pytest.raises(Exception, match="250 thanks"):
        send_once(sender)

    assert row() == "queued"


def test_goodbye_instead_of_an_answer_is_a_refusal_for_now(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    smtp.on("dot", reply("421 shutting down"))

    with pytest.raises(MailServerBusyError):
        send_once(sender)
    send_once(sender)

    assert len(smtp.messages) == 1


def test_a_killed_run_that_had_not_ended_the_data_is_begun_again(
    sender: Account, smtp: SmtpServer, send_once: Send, killed_at: KilledAt
) -> None:
    with killed_at("send_content"):
        send_once(sender)
    assert row() == "sending"
    # Another task with its key waits, the same task goes on
    with pytest.raises(DeliveryUnderWayError):
        send_once(sender, "task-2", key="task:task-1", subject="task-1")
    send_once(sender)

    assert len(smtp.messages) == 1


def test_a_killed_run_that_was_about_to_end_the_data_leaves_it_unknown(
    sender: Account, smtp: SmtpServer, send_once: Send, killed_at: KilledAt
) -> None:
    with killed_at("end_data"):
        send_once(sender)
    assert rows("SELECT state, data_at IS NULL FROM outbox_message") == [("sending", False)]
    # Perhaps that run is alive and waits for the answer
    with pytest.raises(DeliveryUnderWayError):
        send_once(sender)
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql("UPDATE outbox_message SET data_at = data_at - interval '9 seconds'")
    with pytest.raises(MailServerUnavailableError):  # it is looked for, and its mailbox is not there
        send_once(sender)

    assert row() == "unknown"
    assert smtp.messages == []


def test_a_run_that_lost_its_message_to_another_does_not_end_the_data(
    sender: Account, smtp: SmtpServer, send_once: Send
) -> None:
    # Given a second delivery of the task, while the first has sent all but the end
    smtp.on("data", lambda: send_once(sender) and None)

    with pytest.raises(DeliveryUnderWayError):
        send_once(sender)

    assert len(smtp.messages) == 1
    assert row() == "sent"


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> KilledAt:
    """Ends what runs in the block at a step of its connection, and keeps it from noting anything afterwards."""

    @contextmanager
    def killed(step: str) -> Iterator[None]:
        def die(*_: object, **__: object) -> None:
            raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(SmtpConnection, step, die)
            patch.setattr(notes, "change_outgoing", die)
            with pytest.raises(KilledError):
                yield

    return killed
