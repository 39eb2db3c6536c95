"""How a worker treats tasks that were revoked, and tasks that an error outside of the task disturbed.

Imported by workers only.
"""

from contextlib import AbstractContextManager
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.pool import MaybeEncodingError
from celery.exceptions import Reject
from celery.worker.request import Request
from celery.worker.state import revoked as revoked_tasks
from redis.exceptions import RedisError

from tasks.errors import SoftTimeLimitError
from tasks.log_fields import logged_with
from tasks.runtime.log.tasks import fields_of
from tasks.runtime.owners import marks


class CarefulRequest(Request):  # type: ignore[misc]  # celery has no types
    """Celery's request, which gives its message back where Celery would lose it."""

    def info(self, safe: bool = True) -> Any:  # noqa: ARG002 - Celery's
        """As Celery's, but the arguments are always redacted: Flower and others who ask by remote control show it."""
        return super().info(safe=True)

    def revoked(self) -> bool:
        """As Celery's, but also true if the task's owner revoked it before its worker knew the owner
        (tasks/runtime/control.py)."""
        # The rest of Celery's code looks for the task's id in this list, not for a mark.
        if revoked_tasks and any(mark in revoked_tasks for mark in marks(self.task, self.id, self.args, self.kwargs)):
            revoked_tasks.add(self.id)
        return bool(super().revoked())

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """As Celery's, but a task does not count as failed because of an error outside of the task.

        There are two such errors. The task's state could not be stored, so that the task did not begin (with
        `return_ok` the task itself failed). Or the soft time limit passed after the task's end, while its result was
        stored or sent, so that the worker got the error of the time limit instead of the result.
        """
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        is_unnoted = isinstance(error, RedisError) and not return_ok
        is_overtaken = (isinstance(error, SoftTimeLimitError) and exc_info.internal) or (
            isinstance(error, MaybeEncodingError) and SoftTimeLimitError.__name__ in error.exc
        )
        if is_unnoted or is_overtaken:
            exc_info.exception = Reject(error, requeue=True)
        with self._logged():
            super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """As Celery's."""
        with self._logged():
            super().on_timeout(soft, timeout)

    def _logged(self) -> AbstractContextManager[None]:
        """A block of the worker's main process whose lines have the fields of this task."""
        return logged_with(**fields_of(self.task, self.id, self.args, self.kwargs))
