"""What the server's answers make of recipients."""

import pytest

from tasks.engine.send.recipient_states import after_answer, after_offer
from tasks.mail.smtp.commands import Offer
from tasks.mail.smtp.session import Reply
from tasks.storage.outbox import Recipient

TAKEN, LATER, NEVER = Reply(250, "ok"), Reply(450, "later"), Reply(550, "never")


def test_only_those_that_were_pending_are_offered() -> None:
    before = [
        Recipient("a"),
        Recipient("b", "accepted", "250 ok"),
        Recipient("c", "refused", "550 no"),
        Recipient("d"),
    ]
    after = after_offer(before, Offer({"a": TAKEN, "b": NEVER, "c": TAKEN}, None))

    assert [r.state for r in after] == ["offered", "accepted", "refused", "pending"]


@pytest.mark.parametrize(("reply", "state"), [(TAKEN, "accepted"), (LATER, "pending"), (NEVER, "refused")])
def test_the_answer_is_for_those_that_were_offered(reply: Reply, state: str) -> None:
    before = [
        Recipient("a", "offered"),
        Recipient("b"),
        Recipient("c", "accepted"),
        Recipient("d", "refused", "550 x"),
    ]
    after = after_answer(before, reply)

    assert [r.state for r in after] == [state, "pending", "accepted", "refused"]
    assert after[0].reply == str(reply)
    assert after[1:] == before[1:]


@pytest.mark.parametrize(
    ("code", "text", "state"),
    [
        (552, "too many recipients", "pending"),
        (552, "5.5.3 too many recipients", "pending"),
        (550, "5.5.3 too many recipients", "pending"),
        (452, "4.5.3 too many recipients", "pending"),
        (552, "5.2.2 mailbox full", "refused"),
        (552, "5.3.4 too big", "refused"),
        (550, "too many recipients", "refused"),
    ],
)
def test_those_beyond_the_number_of_one_transaction_wait_for_the_next(code: int, text: str, state: str) -> None:
    reply = Reply(code, text)
    after = after_offer([Recipient("a"), Recipient("b")], Offer({"a": TAKEN, "b": reply}, None))

    assert after == [Recipient("a", "offered", "250 ok"), Recipient("b", state, str(reply))]


def test_where_nobody_was_taken_they_were_not_too_many() -> None:
    before = [Recipient("a"), Recipient("b", "accepted", "250 ok")]
    after = after_offer(before, Offer({"a": Reply(552, "5.5.3 too many recipients")}, None))

    assert [r.state for r in after] == ["refused", "accepted"]


def test_each_keeps_the_servers_words() -> None:
    offer = Offer({"a": LATER, "b": NEVER}, None)

    assert after_offer([Recipient("a"), Recipient("b")], offer) == [
        Recipient("a", "pending", "450 later"),
        Recipient("b", "refused", "550 never"),
    ]
