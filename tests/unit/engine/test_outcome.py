"""What the server's answers make of recipients."""

import pytest

from tasks.engine.outcome import after_answer, after_offer
from tasks.mail.smtp import Offer
from tasks.mail.smtp_session import Reply
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


def test_each_keeps_the_servers_words() -> None:
    offer = Offer({"a": LATER, "b": NEVER}, None)

    assert after_offer([Recipient("a"), Recipient("b")], offer) == [
        Recipient("a", "pending", "450 later"),
        Recipient("b", "refused", "550 never"),
    ]
