"""The base class of all tasks, one file a concern:

owned.py      the owner of a task; its arguments are checked before it is queued, and shown redacted
retried.py    when a task runs again
counted.py    how often a task killed its worker
here          no error leaves a task with a secret in it, and a task that fails for good becomes a dead letter
"""

import logging
from typing import Any

from celery.exceptions import TimeLimitExceeded

from tasks.errors import EmailError, InternalError, OutOfMemoryError, StorageUnavailableError
from tasks.runtime import redeliveries
from tasks.runtime.redaction import redact_arguments, redact_text
from tasks.runtime.task.counted import CountedTask
from tasks.secrecy.secrets import NOT_SHOWN, secrets_kept, tells_secret, without_secrets
from tasks.settings import get_settings
from tasks.storage import dead_letters

logger = logging.getLogger(__name__)

_MAX_TRACEBACK_LENGTH = 20_000


class EmailTask(CountedTask):
    """A task that works on mail. It belongs to a tenant and a user, whose ids are checked before the task is queued.

    A task that is killed at any instant is delivered again. A task that keeps killing its worker, or that fails for
    good, becomes a dead letter.
    """

    abstract = True
    Request = "tasks.runtime.request:CarefulRequest"
    # A message is acknowledged when its effect is durable, and is redelivered if its worker dies before, or is killed
    # because the task exceeds its hard time limit. Set here as well as in the configuration, because a task that is
    # bound while the configuration is being read does not get the value from there.
    acks_late = True
    acks_on_failure = True
    acks_on_timeout = False
    reject_on_worker_lost = True
    track_started = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with secrets_kept(get_settings().secrets):
            try:
                return self._call(*args, **kwargs)
            except Exception as error:
                # Celery writes an error with its causes into the log, the result and an event.
                without_secrets(error)
                if tells_secret(error):
                    raise InternalError(f"{type(error).__name__}: {NOT_SHOWN}") from None
                raise

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        self.check_arguments(args, kwargs)
        if self.request.called_directly or self.request.is_eager:
            return super().__call__(*args, **kwargs)
        try:
            with self.counted(args, kwargs):
                return super().__call__(*args, **kwargs)
        except MemoryError as error:
            # Celery would end the whole worker for a MemoryError.
            raise OutOfMemoryError from error
        except StorageUnavailableError as error:
            raise self.retry(exc=error) from error

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Store a task that failed for good as a dead letter."""
        if self.request.is_eager or isinstance(exc, TimeLimitExceeded):
            return  # a task over its hard time limit is redelivered and counted
        tenant_id, user_id = self.owner(args, kwargs)
        shown_args, shown_kwargs = redact_arguments(self.run, args, kwargs)
        # Uses the given id: where Celery failed before the task began, there is no request with an id.
        failure = dead_letters.Failure(
            task_key=self.key(args, kwargs, task_id),
            task_name=self.name,
            task_id=task_id,
            user_id=user_id,
            shown_arguments={"args": shown_args, "kwargs": shown_kwargs},
            error_code=exc.code if isinstance(exc, EmailError) else type(exc).__name__,
            error=redact_text(str(exc)),
            traceback=redact_text(str(einfo.traceback))[-_MAX_TRACEBACK_LENGTH:],
            attempts=(self.request.retries or 0) + 1,
        )
        try:
            dead_letters.bury(tenant_id, failure, args, kwargs)
        except Exception:
            logger.exception("a failed task could not be kept: %s %s", self.name, failure.shown_arguments)
            return
        redeliveries.note_dead_letter(self.app, failure.task_key)
