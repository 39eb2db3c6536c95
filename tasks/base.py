"""What all tasks have in common: whose they are, and how they are retried."""

import inspect
import random
from typing import Any, NoReturn

from celery import Task

from tasks.redaction import redact_arguments
from tasks.settings import get_settings

CELERY_DEFAULT_RETRY_DELAY = 5
CELERY_RETRY_BACKOFF_BASE = 2

# A retry waits between this share of its backoff and all of it, so that many do not come back at once.
_LEAST_JITTER = 0.5


class EmailTask(Task):  # type: ignore[misc]  # celery has no types
    """A task on somebody's mail. It belongs to a tenant and a user, and says so before it is queued."""

    abstract = True
    # Here and not only in the configuration, which a task bound while it is being read does not get: a message is
    # acknowledged when its effect is durable, and comes back if its worker dies before.
    acks_late = True
    reject_on_worker_lost = True
    track_started = True
    default_retry_delay = CELERY_DEFAULT_RETRY_DELAY

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Queue the task. Raises ValueError without a tenant_id or user_id, before anything is queued."""
        self._require_owner(args or (), kwargs or {})
        shown_args, shown_kwargs = redact_arguments(self.run, args or (), kwargs or {})
        options = {"argsrepr": repr(shown_args), "kwargsrepr": repr(shown_kwargs), **options}
        return super().apply_async(args, kwargs, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._require_owner(args, kwargs)
        return super().__call__(*args, **kwargs)

    def retry_delay(self) -> float:
        """Seconds until the next try: exponential from the task's first delay, with jitter and a cap."""
        backoff: float = self.default_retry_delay * CELERY_RETRY_BACKOFF_BASE**self.request.retries
        return min(backoff, get_settings().worker.retry_max_delay) * random.uniform(_LEAST_JITTER, 1)

    def look_again(self, why: Exception, seconds: float, **options: Any) -> NoReturn:
        """Come back in `seconds`, because somebody else is at it. This wears out no retries."""
        self.request.retries -= 1
        raise self.retry(exc=why, countdown=seconds, **options) from why

    def _require_owner(self, args: Any, kwargs: Any) -> None:
        signature = inspect.signature(self.run)
        given = signature.bind_partial(*args, **kwargs).arguments
        for name in ("tenant_id", "user_id"):
            if name in signature.parameters and not given.get(name):
                raise ValueError(f"{self.name} needs a {name}")
