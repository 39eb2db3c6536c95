"""When a task runs again under its own id: after a transient
error, while another run is at work, and for work that is left."""

import random
from typing import Any, NoReturn

from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError

from tasks.errors import DeliveryWaitsError, LoginDelayedError, StorageUnavailableError, TransientError
from tasks.runtime.results import WAITING
from tasks.runtime.task.owned import OwnedTask
from tasks.settings import get_settings

CELERY_DEFAULT_RETRY_DELAY = 5
CELERY_RETRY_BACKOFF_BASE = 2
# How often a task waits for a database that is away, or until the next login is due. At 600 s apart this lasts days.
_MAX_WAITS = 1000
# The first waits for a database, some minutes of them, are as short as a failover: most databases are back by then.
_SHORT_WAITS, _SHORT_WAIT_SECONDS = 20, 15
_WAITS_HEADER = "metabuilder_waits"
_FOLLOWERS = ("task_id", "root_id", "parent_id", "group_id", "group_index", "chord", "chain", "link", "link_error")

# A retry waits between this share of its backoff and all of it, so that many do not come back at once.
_MIN_JITTER = 0.5


class RetriedTask(OwnedTask):
    """A task that comes back under its own id."""

    abstract = True
    default_retry_delay = CELERY_DEFAULT_RETRY_DELAY

    def retry_delay(self, tries: int | None = None, why: Exception | None = None) -> float:
        """Seconds until the next try: exponential from the task's first delay, with jitter and a cap.

        Where the error `why` has a `retry_after`, the delay is at least that long, up to the cap.
        """
        tries = self.request.retries if tries is None else tries
        backoff: float = self.default_retry_delay * CELERY_RETRY_BACKOFF_BASE**tries
        longest = get_settings().worker.retry_max_delay
        asked_for = (why.retry_after if isinstance(why, TransientError) else None) or 0
        return max(min(backoff, longest) * random.uniform(_MIN_JITTER, 1), min(asked_for, longest))

    def retry(self, *args: Any, exc: Exception | None = None, **options: Any) -> Any:
        """As Celery's, with two differences: waiting for a database that is away or for a login that is not due does
        not count as a retry, and no task is lost when the broker is full."""
        is_queued = not (self.request.called_directly or self.request.is_eager)
        if isinstance(exc, StorageUnavailableError | LoginDelayedError) and is_queued:
            waits = self.request.get(_WAITS_HEADER, 0)
            if waits >= _MAX_WAITS:
                raise exc
            self.request.retries -= 1
            options["countdown"] = self._wait_seconds(waits, exc)
            options["headers"] = {**options.get("headers", {}), _WAITS_HEADER: waits + 1}
        try:
            return super().retry(*args, exc=exc, **options)
        except Reject as unpublished:
            # Without `requeue` Celery would drop the message.
            raise Reject(unpublished.reason, requeue=True) from unpublished

    def _wait_seconds(self, waits: int, why: TransientError) -> float:
        """Seconds until the next look, after so many waits."""
        if not isinstance(why, StorageUnavailableError):
            return self.retry_delay(waits, why)
        if waits < _SHORT_WAITS:
            return min(self.retry_delay(waits), _SHORT_WAIT_SECONDS * random.uniform(_MIN_JITTER, 1))
        return self.retry_delay(waits - _SHORT_WAITS)

    def on_replace(self, sig: Any) -> Any:
        """As Celery's, but where a full broker refuses the new message, this task's message is given back: the task
        runs again, from what is stored."""
        try:
            return super().on_replace(sig)
        except OperationalError as unpublished:
            raise Reject(unpublished, requeue=True) from unpublished

    def reschedule(self, why: Exception, seconds: float = 0, **options: Any) -> NoReturn:
        """Run again in `seconds`, for the work that is left. This does not count as a retry."""
        self.request.retries -= 1
        raise self.retry(exc=why, countdown=seconds, **options) from why

    def snooze(self, why: Exception, seconds: float, **options: Any) -> NoReturn:
        """Run again in `seconds`, because another run is at work on the same. This does not count as a retry."""
        self.request.looks_again = True
        self.reschedule(why, seconds, **options)

    def wait(self, why: DeliveryWaitsError) -> NoReturn:
        """Leave the rest to a later task under the same id.

        Until then the state is WAITING, with the time of the next try.
        """
        if self.request.called_directly or self.request.is_eager:
            raise why
        self.update_state(state=WAITING, meta=dict(why.waiting))
        raise Ignore(str(why))

    def followers(self) -> dict[str, Any]:
        """Options of `apply_async` for a later task that does the rest of the work: the same id, and the tasks that
        are to follow this task."""
        given = self.request.as_execution_options()
        return {name: given[name] for name in _FOLLOWERS if given[name] is not None} if self.request.id else {}
