"""How a worker treats tasks that were revoked, and tasks that an error outside of the task disturbed; and who is told
what became of a task.

Imported by workers only.
"""

from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from billiard.pool import MaybeEncodingError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.state import revoked as revoked_tasks
from redis.exceptions import RedisError

from tasks.errors import SoftTimeLimitError
from tasks.log_fields import logged_with
from tasks.runtime.log.tasks import fields_of
from tasks.runtime.outcomes import Outcome
from tasks.runtime.owners import marks
from tasks.runtime.revocations import name_mark
from tasks.runtime.signals import task_begun, task_ended

# How a run ended by the error that Celery gives. The first class that fits counts.
_OUTCOMES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Outcome], ...] = (
    (Retry, Outcome.RETRY),
    (Ignore, Outcome.DEFERRED),
    (Reject, Outcome.GIVEN_BACK),
    (Terminated, Outcome.REVOKED),
    (TimeLimitExceeded, Outcome.TIMED_OUT),
    ((WorkerLostError, SystemExit, KeyboardInterrupt), Outcome.LOST),
)


class CarefulRequest(Request):  # type: ignore[misc]  # celery has no types
    """Celery's request, which gives its message back where Celery would lose it."""

    _began_at: float | None = None
    _has_ended = False

    def __init_subclass__(cls) -> None:
        """Have a subclass tell of each success: Celery makes one for each task, with an `on_success` of its own.

        It is called for failures too.
        """
        on_success = cls.on_success

        def on_success_and_tell(self: "CarefulRequest", failed__retval__runtime: Any, **kwargs: Any) -> None:
            on_success(self, failed__retval__runtime, **kwargs)
            has_failed, *_ = failed__retval__runtime
            if not has_failed:
                self._tell_end(Outcome.SUCCESS)

        cls.on_success = on_success_and_tell

    def info(self, safe: bool = True) -> Any:  # noqa: ARG002 - Celery's
        """As Celery's, but the arguments are always redacted: Flower and others who ask by remote control show it."""
        return super().info(safe=True)

    def revoked(self) -> bool:
        """As Celery's, but also true if the task's owner revoked it before its worker knew the owner
        (tasks/runtime/control.py), and if an operator revoked all tasks of its name."""
        # The rest of Celery's code looks for the task's id in this list, not for a mark.
        if revoked_tasks and any(
            mark in revoked_tasks
            for mark in (name_mark(self.name), *marks(self.task, self.id, self.args, self.kwargs))
        ):
            revoked_tasks.add(self.id)
        return bool(super().revoked())

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """As Celery's, and tell that the task begins."""
        super().on_accepted(pid, time_accepted)
        self._began_at = time_accepted
        task_begun.send(sender=self, at=time_accepted)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """As Celery's, but a task does not count as failed because of an error outside of the task.

        There are two such errors. The task's state could not be stored, so that the task did not begin (with
        `return_ok` the task itself failed). Or the soft time limit passed after the task's end, while its result was
        stored or sent, so that the worker got the error of the time limit instead of the result.
        """
        error = _error_of(exc_info)
        is_unnoted = isinstance(error, RedisError) and not return_ok
        is_overtaken = (isinstance(error, SoftTimeLimitError) and exc_info.internal) or (
            isinstance(error, MaybeEncodingError) and SoftTimeLimitError.__name__ in error.exc
        )
        if is_unnoted or is_overtaken:
            exc_info.exception = Reject(error, requeue=True)
        with self._logged():
            super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        error = _error_of(exc_info)
        outcome = next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), Outcome.FAILURE)
        self._tell_end(outcome, error.exc if isinstance(error, Retry) else error)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """As Celery's."""
        with self._logged():
            super().on_timeout(soft, timeout)

    def _logged(self) -> AbstractContextManager[None]:
        """A block of the worker's main process whose lines have the fields of this task."""
        return logged_with(**fields_of(self.task, self.id, self.args, self.kwargs))

    def _announce_revoked(self, reason: str, *args: Any) -> None:
        super()._announce_revoked(reason, *args)
        self._tell_end(Outcome.EXPIRED if reason == "expired" else Outcome.REVOKED)

    def _tell_end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Tell what became of the task, once: Celery has several calls for some ends."""
        if self._has_ended:
            return
        self._has_ended = True
        seconds = None if self._began_at is None else monotonic() - self._began_at
        task_ended.send(sender=self, outcome=outcome, error=error, seconds=seconds)


def _error_of(exc_info: Any) -> Any:
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error
