"""What becomes of a message whose task something else got in the way of."""

import pickle
from contextlib import nullcontext

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from billiard.pool import MaybeEncodingError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request

from tasks.errors import SoftTimeLimitError
from tasks.runtime.outcomes import Outcome
from tasks.runtime.request import CarefulRequest
from tasks.runtime.signals import task_ended


@pytest.mark.parametrize(
    ("error", "is_given_back"),
    [
        (MaybeEncodingError(SoftTimeLimitError(), (1, "done", 0.1)), True),
        (MaybeEncodingError(TypeError("cannot pickle"), (1, "done", 0.1)), False),
        (ValueError("of the task"), False),
        (SoftTimeLimitError(), True),
    ],
    ids=["its time was up as it ended", "a result that cannot be sent", "it failed", "its time was up in Celery"],
)
def test_a_task_whose_time_is_up_as_it_ends_has_not_failed(
    error: Exception, is_given_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment of microseconds, which no real worker can be made to meet: what Celery makes of it is left out."""
    seen = []
    monkeypatch.setattr(
        Request, "on_failure", lambda _, exc_info, **options: seen.append((exc_info.exception, options))
    )
    monkeypatch.setattr(CarefulRequest, "_logged", lambda _: nullcontext())

    try:
        raise error
    except Exception:
        info = ExceptionInfo(internal=isinstance(error, SoftTimeLimitError))
    info = pickle.loads(pickle.dumps(info))  # as the process of the task sends it to the worker
    CarefulRequest.on_failure(CarefulRequest.__new__(CarefulRequest), info)

    [(outcome, options)] = seen
    assert (isinstance(outcome, Reject) and outcome.requeue) == is_given_back
    assert options == {"send_failed_event": True, "return_ok": False}


def raised(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except BaseException:
        return ExceptionInfo()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("of the task"), Outcome.FAILURE),
        (Retry(exc=ValueError("of the task")), Outcome.RETRY),
        (Ignore(), Outcome.DEFERRED),
        (Reject("full", requeue=True), Outcome.GIVEN_BACK),
        (Terminated(9), Outcome.REVOKED),
        (TimeLimitExceeded(20), Outcome.TIMED_OUT),
        (WorkerLostError("signal 9"), Outcome.LOST),
        (SystemExit(1), Outcome.LOST),
    ],
    ids=repr,
)
def test_the_end_of_a_task_is_told_once(
    error: BaseException, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Request, "on_failure", lambda *_, **__: None)
    monkeypatch.setattr(CarefulRequest, "_logged", lambda _: nullcontext())
    monkeypatch.setattr(Request, "_announce_revoked", lambda *_: None)
    request = CarefulRequest.__new__(CarefulRequest)
    told: list[object] = []

    def listen(outcome: Outcome, error: object, **_: object) -> None:
        told.append((outcome, str(error)))

    task_ended.connect(listen, sender=request)
    CarefulRequest.on_failure(request, raised(error))
    CarefulRequest.on_failure(request, raised(error))
    CarefulRequest._announce_revoked(request, "expired", False, None, True)

    assert told == [(outcome, str(error.exc if isinstance(error, Retry) else error))]


@pytest.mark.parametrize(("reason", "outcome"), [("expired", Outcome.EXPIRED), ("revoked", Outcome.REVOKED)])
def test_a_task_that_nobody_began_has_ended_too(
    reason: str, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Request, "_announce_revoked", lambda *_: None)
    request = CarefulRequest.__new__(CarefulRequest)
    told: list[object] = []

    def listen(outcome: Outcome, error: object, seconds: object, **_: object) -> None:
        told.append((outcome, error, seconds))

    task_ended.connect(listen, sender=request)
    CarefulRequest._announce_revoked(request, reason, False, None, reason == "expired")

    assert told == [(outcome, None, None)]
