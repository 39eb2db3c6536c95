"""What becomes of an endpoint after a round: the state machine of webhooks.

An event that the receiver refuses (any answer but 2xx, a redirect among them) is tried again: ten times over three
days. Meanwhile it holds up the later events of its account, which wait behind it in the backlog, and no others.

    accepted   the account goes on with its next event
    refused    the account waits in the backlog; after ten tries the event is left out and counted (`given_up`)
    away       no answer, or 429, 502, 503, 504: where nothing of the round was accepted, the endpoint as a whole
               waits, and its position stays; Retry-After is obeyed up to an hour
    gone       410: the endpoint is disabled
    failing    ten tries, in which nothing was accepted: the endpoint is disabled

A disabled endpoint keeps its position and its backlog, and goes on from there once a test of it is accepted. Running
a round again is harmless, because the receiver knows an event by its id.
"""

import random
from collections.abc import Iterable
from typing import NamedTuple

from tasks.engine.webhooks.receiver import Failure
from tasks.storage.states import DisabledReason
from tasks.storage.webhooks.rounds import Behind, Lane, Round, Verdict, before

_MINUTE, _HOUR = 60, 3600
# Seconds from each try to the next, as Standard Webhooks recommends: ten tries over three days.
_PAUSES = (5, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR, 5 * _HOUR, 10 * _HOUR, 14 * _HOUR, 20 * _HOUR, 24 * _HOUR)
MAX_TRIES = len(_PAUSES) + 1
# So that not all endpoints behind one receiver are tried at the same moment.
_JITTER = (0.8, 1.2)


class LaneOutcome(NamedTuple):
    """How far a lane came: so many events accepted, and why not the next, unless it was not tried."""

    lane: Lane
    accepted: int = 0
    failure: Failure | None = None


def judge(round_: Round, outcomes: Iterable[LaneOutcome]) -> Verdict:
    """What becomes of the endpoint after these lanes of a round."""
    outcomes = tuple(outcomes)
    failures = [one.failure for one in outcomes if one.failure]
    has_accepted = any(one.accepted for one in outcomes)
    error = failures[0].words if failures else None
    if any(failure.is_gone for failure in failures) and not has_accepted:
        return Verdict(round_.position, attempts=round_.attempts, error=error, disabled=DisabledReason.GONE)
    if any(failure.is_away for failure in failures) and not has_accepted:
        return _away(round_, failures)
    verdict = Verdict(round_.read_to, has_accepted=has_accepted, error=error)
    for one in outcomes:
        verdict = _with_lane(verdict, round_, one)
    if any(failure.is_gone for failure in failures):
        return verdict._replace(disabled=DisabledReason.GONE)
    return verdict._replace(
        wait_seconds=max((_asked_for(failure) for failure in failures if failure.is_away), default=0)
    )


def _away(round_: Round, failures: list[Failure]) -> Verdict:
    tries = round_.attempts + 1
    disabled = DisabledReason.FAILING if tries >= MAX_TRIES else None
    wait_seconds = max(_pause(tries), *map(_asked_for, failures))
    words = failures[0].words
    return Verdict(round_.position, attempts=tries, wait_seconds=wait_seconds, error=words, disabled=disabled)


def _with_lane(verdict: Verdict, round_: Round, one: LaneOutcome) -> Verdict:
    lane, rest = one.lane, one.lane.events[one.accepted :]
    if not rest:
        return _with_whole_lane(verdict, lane)
    failure = one.failure
    if failure is None:
        is_where_it_was = lane.is_behind and not one.accepted
        return verdict if is_where_it_was else _put_behind(verdict, Behind(lane.account_id, before(rest[0])))
    tries = (0 if one.accepted else lane.attempts) + 1
    wait_seconds = max(_pause(tries), _asked_for(failure))
    waiting = Behind(lane.account_id, before(rest[0]), tries, wait_seconds, failure.words)
    if tries < MAX_TRIES:
        return _put_behind(verdict, waiting)
    if not verdict.has_accepted and _nothing_was_accepted_since(lane, round_):
        return _put_behind(verdict, waiting)._replace(disabled=DisabledReason.FAILING)
    left_out = Behind(lane.account_id, rest[0].position)
    return _put_behind(verdict, left_out)._replace(given_up=verdict.given_up + 1)


def _with_whole_lane(verdict: Verdict, lane: Lane) -> Verdict:
    if not lane.is_behind:
        return verdict
    if not lane.has_more:
        return verdict._replace(caught_up=(*verdict.caught_up, lane.account_id))
    return _put_behind(verdict, Behind(lane.account_id, lane.events[-1].position)) if lane.events else verdict


def _put_behind(verdict: Verdict, behind: Behind) -> Verdict:
    return verdict._replace(behind=(*verdict.behind, behind))


def _nothing_was_accepted_since(lane: Lane, round_: Round) -> bool:
    """Whether the endpoint has accepted nothing since the first event of this lane failed first."""
    first_failures = (round_.failing_since, lane.failing_since)
    return first_failures[0] is not None and first_failures[1] is not None and first_failures[0] <= first_failures[1]


def _pause(tries: int) -> float:
    """Seconds until the next try after so many."""
    return _PAUSES[min(tries, len(_PAUSES)) - 1] * random.uniform(*_JITTER)


def _asked_for(failure: Failure) -> float:
    return failure.retry_after or 0
