"""What a worker does with tasks that something else got in the way of. Only a worker imports it."""

from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import MaybeEncodingError
from celery.exceptions import Reject
from celery.worker.request import Request
from celery.worker.state import revoked as revoked_tasks
from redis.exceptions import RedisError

from tasks.runtime.owners import marks


class CarefulRequest(Request):  # type: ignore[misc]  # celery has no types
    """A message that is given back rather than lost."""

    def revoked(self) -> bool:
        """Celery's, and where its owner revoked it before its ownership was known (tasks/runtime/control.py)."""
        # Celery's own task id and no mark is what the rest of it looks for.
        if revoked_tasks and any(mark in revoked_tasks for mark in marks(self.task, self.id, self.args, self.kwargs)):
            revoked_tasks.add(self.id)
        return bool(super().revoked())

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Celery's, but a task is not taken for a failed one where something around it failed.

        Its state could not be noted, so it did not begin (with `return_ok` the task itself failed); or its soft time
        limit passed after its end, as its result was stored or sent, and the worker got that error instead.
        """
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        is_unnoted = isinstance(error, RedisError) and not return_ok
        is_overtaken = (isinstance(error, SoftTimeLimitExceeded) and exc_info.internal) or (
            isinstance(error, MaybeEncodingError) and SoftTimeLimitExceeded.__name__ in error.exc
        )
        if is_unnoted or is_overtaken:
            exc_info.exception = Reject(error, requeue=True)
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
