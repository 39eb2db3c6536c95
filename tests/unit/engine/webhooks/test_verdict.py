"""What becomes of an endpoint after a round, by what came of its lanes."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.engine.webhooks.receiver import Failure
from tasks.engine.webhooks.verdict import MAX_TRIES, LaneOutcome, judge
from tasks.storage.events import Event
from tasks.storage.states import DisabledReason
from tasks.storage.webhooks.rounds import Claim, Lane, Round, Verdict

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED, GONE = Failure("answered 500"), Failure("answered 410", is_gone=True)
AWAY = Failure("no connection", is_away=True)


def lane(account: str, *numbers: int, **more: object) -> Lane:
    events = tuple(Event(f"7-{n}", f"id-{n}", "message.created", account, NOW, {}) for n in numbers)
    return Lane(account, events)._replace(**more)


def round_of(*lanes: Lane, attempts: int = 0, failing_since: datetime | None = None) -> Round:
    claim = Claim("tenant", "webhook", "run")
    return Round(claim, "https://a.example/", ("whsec_AA==",), lanes, "7-0", "7-9", attempts, failing_since)


def judged(*outcomes: LaneOutcome, attempts: int = 0, failing_since: datetime | None = None) -> Verdict:
    lanes = (one.lane for one in outcomes)
    return judge(round_of(*lanes, attempts=attempts, failing_since=failing_since), outcomes)


def test_all_accepted_moves_the_position_to_where_it_was_read() -> None:
    verdict = judged(LaneOutcome(lane("ada", 1, 2), 2), LaneOutcome(lane("bob", 3), 1))
    assert verdict == Verdict("7-9", has_accepted=True)


def test_nothing_wanted_moves_the_position_too() -> None:
    assert judged() == Verdict("7-9")


def test_an_account_that_is_refused_waits_before_the_event_that_was() -> None:
    verdict = judged(LaneOutcome(lane("ada", 1, 3), 1, REFUSED), LaneOutcome(lane("bob", 2), 1))
    (behind,) = verdict.behind
    assert (behind.account_id, behind.position, behind.attempts, behind.error) == ("ada", "7-2", 1, "answered 500")
    assert 4 <= behind.wait_seconds <= 6
    assert verdict.position == "7-9"


def test_an_account_of_the_backlog_that_is_done_goes_unless_more_was_passed_meanwhile() -> None:
    done = LaneOutcome(lane("ada", 1, 2, is_behind=True), 2)
    more = LaneOutcome(lane("bob", 3, is_behind=True, has_more=True), 1)
    empty = LaneOutcome(lane("eve", is_behind=True))
    passed = LaneOutcome(lane("joe", is_behind=True, has_more=True))
    verdict = judged(done, more, empty, passed)
    assert verdict.caught_up == ("ada", "eve")
    assert [(one.account_id, one.position, one.attempts) for one in verdict.behind] == [("bob", "7-3", 0)]


def test_what_was_not_tried_waits_for_nothing() -> None:
    untried, halfway = LaneOutcome(lane("ada", 1)), LaneOutcome(lane("bob", 2, 3), 1)
    known = LaneOutcome(lane("eve", 4, is_behind=True, attempts=3))
    verdict = judged(untried, halfway, known)
    assert [(one.account_id, one.position, one.attempts, one.wait_seconds) for one in verdict.behind] == [
        ("ada", "7-0", 0, 0),
        ("bob", "7-2", 0, 0),
    ]


@pytest.mark.parametrize("others", [(), (LaneOutcome(lane("bob", 2), 0, REFUSED),), (LaneOutcome(lane("bob", 2)),)])
def test_a_receiver_that_is_away_waits_as_a_whole_where_it_was(others: tuple[LaneOutcome, ...]) -> None:
    verdict = judged(LaneOutcome(lane("ada", 1), 0, AWAY), *others, attempts=2)
    assert (verdict.position, verdict.behind, verdict.attempts) == ("7-0", (), 3)
    assert 1800 * 0.8 <= verdict.wait_seconds <= 1800 * 1.2


def test_a_receiver_that_goes_away_halfway_keeps_what_it_accepted() -> None:
    busy = AWAY._replace(retry_after=600.0)
    verdict = judged(LaneOutcome(lane("ada", 1, 2), 1, busy), LaneOutcome(lane("bob", 3)), attempts=5)
    assert (verdict.position, verdict.attempts, verdict.wait_seconds) == ("7-9", 0, 600)
    assert [(one.account_id, one.position, one.attempts) for one in verdict.behind] == [
        ("ada", "7-1", 1),
        ("bob", "7-2", 0),
    ]


def test_retry_after_makes_a_wait_longer_and_never_shorter() -> None:
    assert judged(LaneOutcome(lane("ada", 1), 0, AWAY._replace(retry_after=900.0))).wait_seconds == 900
    assert judged(LaneOutcome(lane("ada", 1), 0, AWAY._replace(retry_after=0.0))).wait_seconds >= 4


def test_410_disables_and_what_was_accepted_is_not_delivered_again() -> None:
    assert judged(LaneOutcome(lane("ada", 1), 0, GONE)).position == "7-0"
    verdict = judged(LaneOutcome(lane("ada", 1, 2), 1, GONE))
    assert (verdict.disabled, verdict.position, [one.position for one in verdict.behind]) == (
        DisabledReason.GONE,
        "7-9",
        ["7-1"],
    )


def test_the_tenth_try_leaves_an_event_out_only_where_others_were_accepted_meanwhile() -> None:
    last = lane("ada", 1, is_behind=True, attempts=MAX_TRIES - 1, failing_since=NOW, has_more=True)
    dead = judged(LaneOutcome(last, 0, REFUSED), failing_since=NOW - timedelta(days=1))
    assert (dead.disabled, dead.given_up, [one.position for one in dead.behind]) == (
        DisabledReason.FAILING,
        0,
        ["7-0"],
    )
    for verdict in (
        judged(LaneOutcome(last, 0, REFUSED), failing_since=NOW + timedelta(days=1)),
        judged(LaneOutcome(last, 0, REFUSED), LaneOutcome(lane("bob", 2), 1), failing_since=NOW),
    ):
        assert (verdict.disabled, verdict.given_up, [one.position for one in verdict.behind]) == (None, 1, ["7-1"])
    assert judged(LaneOutcome(lane("ada", 1), 0, AWAY), attempts=MAX_TRIES - 2).disabled is None
    assert judged(LaneOutcome(lane("ada", 1), 0, AWAY), attempts=MAX_TRIES - 1).disabled == DisabledReason.FAILING


def test_ten_tries_take_three_days() -> None:
    waits = [
        judged(LaneOutcome(lane("ada", 1), 0, AWAY), attempts=tries).wait_seconds for tries in range(MAX_TRIES - 1)
    ]
    assert MAX_TRIES == 10
    assert 3 * 86_400 * 0.8 <= sum(waits) <= 4 * 86_400
