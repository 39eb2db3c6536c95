"""What becomes of a message whose task something else got in the way of."""

import pickle
from contextlib import nullcontext

import pytest
from billiard.einfo import ExceptionInfo
from billiard.pool import MaybeEncodingError
from celery.exceptions import Reject
from celery.worker.request import Request

from tasks.errors import SoftTimeLimitError
from tasks.runtime.request import CarefulRequest


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
