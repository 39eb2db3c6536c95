"""Delivers what waits for the endpoints of all tenants: claims endpoints, and posts to many of them at once.

Threads post; everything with the database is done by the run's own thread. So a slow or dead receiver holds up its
own thread, and neither other endpoints nor the process's few connections to PostgreSQL. One run at a time claims;
others leave what is due to it, so that slow receivers do not take all processes of a worker.
"""

import logging
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

from tasks.engine.webhooks.receiver import Failure, Receiver, check_url
from tasks.engine.webhooks.request import request_for
from tasks.engine.webhooks.verdict import LaneOutcome, judge
from tasks.errors import CredentialUnreadableError, WebhookUrlError
from tasks.log_fields import logged_with
from tasks.settings import get_settings
from tasks.storage.webhooks.rounds import (
    Claim,
    Lane,
    Round,
    Verdict,
    claim_webhooks,
    is_held_back,
    read_round,
    store_round,
)

logger = logging.getLogger(__name__)

# How many endpoints are posted to at once, and over how many connections to each.
_ENDPOINTS_AT_ONCE, _CONNECTIONS_EACH = 32, 4
# After these seconds of a round no other request is begun.
_ROUND_SECONDS = 20
# A claim lasts for a round, the last request of it, its look-up of the name, and the storing of its result. The
# time-out holds for each address of the receiver that is tried (four at most), for TLS, and for the answer.
_TIMEOUTS, _MARGIN_SECONDS = 6, 40
# How often a run looks for other endpoints while some are slow, or for events that are held back.
_LOOK_AGAIN_SECONDS, _LOOK_FOR_HELD_BACK_SECONDS = 0.25, 0.05
# For so long a run waits for transactions that hold events back. Most end within a moment; the sweep finds the rest.
_HELD_BACK_SECONDS = 2.0


class Tally(NamedTuple):
    """How many events were accepted, were not, and were left out for good; and how many endpoints were disabled.

    `is_cut_short`: there was more to deliver when time ran out.
    """

    accepted: int = 0
    failed: int = 0
    given_up: int = 0
    disabled: int = 0
    is_cut_short: bool = False


class _Delivered(NamedTuple):
    """A round that was posted."""

    round: Round
    outcomes: tuple[LaneOutcome, ...]


class Turn(Protocol):
    """The turn to claim endpoints, which one run has at a time. A run that does not keep it loses it soon."""

    def keep(self) -> bool:
        """Take the turn, or keep it. Returns whether this run has it now."""

    def give_up(self) -> None:
        """Let others have it, if this run has it."""


def deliver(run: str, seconds: float, turn: Turn) -> Tally:
    """Deliver what waits, for about so many seconds. `run` is the unique name of this run.

    Returns at once where another run has the turn. Raises StorageUnavailableError.
    """
    return _Run(run, time.monotonic() + seconds, turn).go()


class _Run:
    """One run: the rounds that are being posted, and what has come of others."""

    def __init__(self, name: str, deadline: float, turn: Turn) -> None:
        self._name, self._deadline, self._turn = name, deadline, turn
        self._claim_seconds = _ROUND_SECONDS + _TIMEOUTS * get_settings().webhooks.timeout + _MARGIN_SECONDS
        self._at_work: set[Future[_Delivered]] = set()
        self._tally = Tally()

    def go(self) -> Tally:
        held_back_until = time.monotonic() + _HELD_BACK_SECONDS
        with ThreadPoolExecutor(_ENDPOINTS_AT_ONCE, thread_name_prefix="webhook") as threads:
            while time.monotonic() < self._deadline and self._may_claim():
                claimed = self._claim(threads)
                self._store(_LOOK_AGAIN_SECONDS)
                if claimed or self._at_work:
                    continue
                if time.monotonic() < held_back_until and is_held_back():
                    time.sleep(_LOOK_FOR_HELD_BACK_SECONDS)
                    continue
                # A run that began meanwhile left what is due to this one, which may have looked before.
                self._turn.give_up()
                if not self._claim(threads):
                    return self._tally
            is_cut_short = time.monotonic() >= self._deadline
            self._turn.give_up()
            while self._at_work:
                self._store(None)
        return self._tally._replace(is_cut_short=is_cut_short)

    def _may_claim(self) -> bool:
        """Whether this run has the turn. One with its hands full lets the turn go to others in a while."""
        return len(self._at_work) == _ENDPOINTS_AT_ONCE or self._turn.keep()

    def _claim(self, threads: ThreadPoolExecutor) -> bool:
        free = _ENDPOINTS_AT_ONCE - len(self._at_work)
        claims = claim_webhooks(self._name, free, self._claim_seconds) if free else []
        for claim in claims:
            try:
                round_ = read_round(claim)
            except CredentialUnreadableError as error:
                # Nothing can be signed for it until a person acts. It is tried again when the claim has ended.
                logger.error(
                    "webhook %s gets nothing: %s", claim.webhook_id, error, extra={"tenant": claim.tenant_id}
                )
                continue
            if round_ is not None:
                self._at_work.add(threads.submit(_post, round_, time.monotonic() + _ROUND_SECONDS))
        return bool(claims)

    def _store(self, seconds: float | None) -> None:
        """Store the rounds that have ended, after waiting for one for so many seconds."""
        done, self._at_work = wait(self._at_work, seconds, FIRST_COMPLETED)
        for future in done:
            try:
                delivered = future.result()
            except Exception:
                # Its claim ends by itself; meanwhile the other endpoints get theirs.
                logger.exception("a round of a webhook failed")
                continue
            self._store_verdict(delivered.round.claim, judge(delivered.round, delivered.outcomes), delivered.outcomes)

    def _store_verdict(self, claim: Claim, verdict: Verdict, outcomes: tuple[LaneOutcome, ...]) -> None:
        is_stored = store_round(claim, verdict)
        with logged_with(tenant=claim.tenant_id):
            if not is_stored:
                logger.warning("webhook %s was removed or claimed by another run", claim.webhook_id)
            elif verdict.disabled:
                logger.error("webhook %s is disabled (%s): %s", claim.webhook_id, verdict.disabled, verdict.error)
            elif verdict.error:
                logger.warning("webhook %s: %s", claim.webhook_id, verdict.error)
        self._tally = Tally(
            self._tally.accepted + sum(one.accepted for one in outcomes),
            self._tally.failed + sum(one.failure is not None for one in outcomes),
            self._tally.given_up + verdict.given_up,
            self._tally.disabled + (verdict.disabled is not None),
        )


def _post(round_: Round, deadline: float) -> _Delivered:
    """Post the lanes of a round, several at once, until the receiver is away or time runs out."""
    if not round_.lanes:
        return _Delivered(round_, ())
    try:
        check_url(round_.url)
    except WebhookUrlError as error:  # http:// was allowed when the endpoint was added
        return _Delivered(round_, (LaneOutcome(round_.lanes[0], 0, Failure(str(error), is_away=True)),))
    posting = _Posting(round_, deadline)
    connections = min(_CONNECTIONS_EACH, len(round_.lanes))
    with ThreadPoolExecutor(connections) as threads:
        for future in [threads.submit(posting.work) for _ in range(connections)]:
            future.result()
    return _Delivered(round_, posting.outcomes())


class _Posting:
    """The lanes of a round while they are posted: each connection takes the next."""

    def __init__(self, round_: Round, deadline: float) -> None:
        self._round, self._deadline = round_, deadline
        self._waiting = deque(round_.lanes)
        self._done: list[LaneOutcome] = []
        self._is_over = threading.Event()

    def work(self) -> None:
        with Receiver(self._round.url) as receiver:
            while not self._must_stop():
                try:
                    lane = self._waiting.popleft()
                except IndexError:
                    return
                self._done.append(self._post_lane(receiver, lane))

    def outcomes(self) -> tuple[LaneOutcome, ...]:
        """What came of each lane; of some, that they were not tried."""
        return (*self._done, *map(LaneOutcome, self._waiting))

    def _must_stop(self) -> bool:
        return self._is_over.is_set() or time.monotonic() >= self._deadline

    def _post_lane(self, receiver: Receiver, lane: Lane) -> LaneOutcome:
        for number, event in enumerate(lane.events):
            if self._must_stop():
                return LaneOutcome(lane, number)
            request = request_for(self._round.claim.tenant_id, event, self._round.secrets, time.time())
            if failure := receiver.post(request):
                if failure.is_away or failure.is_gone:
                    self._is_over.set()
                return LaneOutcome(lane, number, failure)
        return LaneOutcome(lane, len(lane.events))
