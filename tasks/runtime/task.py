"""What all tasks have in common: whose they are, how they are retried, and what happens when they fail for good."""

import inspect
import logging
import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import Ignore, Reject, TimeLimitExceeded
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks.errors import (
    BrokerUnavailableError,
    DeliveryWaitsError,
    EmailError,
    InternalError,
    LoginDelayedError,
    OutOfMemoryError,
    PoisonedTaskError,
    StorageUnavailableError,
    TransientError,
)
from tasks.runtime import redeliveries
from tasks.runtime.arguments import check_arguments
from tasks.runtime.redaction import redact_arguments, redact_text
from tasks.runtime.results import WAITING
from tasks.secrecy.secrets import NOT_SHOWN, secrets_kept, tells_secret, without_secrets
from tasks.settings import get_settings
from tasks.storage import dead_letters

logger = logging.getLogger(__name__)

CELERY_DEFAULT_RETRY_DELAY = 5
CELERY_RETRY_BACKOFF_BASE = 2
# How often a task waits for a database that is away, or for the next login to be due: for days, at 600 s apart.
_MOST_WAITS = 1000
_WAITS_HEADER = "metabuilder_waits"
_FOLLOWERS = ("task_id", "root_id", "parent_id", "group_id", "group_index", "chord", "chain", "link", "link_error")

# A retry waits between this share of its backoff and all of it, so that many do not come back at once.
_LEAST_JITTER = 0.5
_LONGEST_TRACEBACK = 20_000


class EmailTask(Task):  # type: ignore[misc]  # celery has no types
    """A task on somebody's mail. It belongs to a tenant and a user, and says so before it is queued.

    Killed at any instant, it is delivered again; one that keeps killing its worker, and one that fails for good, is
    kept among the dead letters.
    """

    abstract = True
    Request = "tasks.runtime.request:CarefulRequest"
    # Here and not only in the configuration, which a task bound while it is being read does not get: a message is
    # acknowledged when its effect is durable, and comes back if its worker dies before, or is killed because the task
    # takes longer than its hard time limit.
    acks_late = True
    acks_on_failure = True
    acks_on_timeout = False
    reject_on_worker_lost = True
    track_started = True
    default_retry_delay = CELERY_DEFAULT_RETRY_DELAY
    # Whether two tasks with the same arguments are two things to do. A second sync of an account does the work of the
    # first; a second message with the same words is a second message.
    is_each_its_own = False

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Queue the task.

        Raises ValueError and TypeError (tasks/runtime/arguments.py) before anything is queued, and
        BrokerUnavailableError.
        """
        self.check_arguments(args or (), kwargs or {})
        shown_args, shown_kwargs = redact_arguments(self.run, args or (), kwargs or {})
        options = {"argsrepr": repr(shown_args), "kwargsrepr": repr(shown_kwargs), **options}
        with secrets_kept(get_settings().secrets):
            try:
                return super().apply_async(args, kwargs, **options)
            except (OperationalError, RedisError, OSError) as error:
                raise BrokerUnavailableError(str(error)) from error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with secrets_kept(get_settings().secrets):
            try:
                return self._call(*args, **kwargs)
            except Exception as error:
                # Celery writes an error and all that led to it into the log, the result and an event.
                without_secrets(error)
                if tells_secret(error):
                    raise InternalError(f"{type(error).__name__}: {NOT_SHOWN}") from None
                raise

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        self.check_arguments(args, kwargs)
        if self.request.called_directly or self.request.is_eager:
            return super().__call__(*args, **kwargs)
        history = self._begin(args, kwargs)
        try:
            result = super().__call__(*args, **kwargs)
        except Exception as error:
            # This very process is alive, so it did not die of it. (It is dying where SystemExit is raised.)
            # One that found somebody else at it has not tried yet: what it dies of may still come.
            if history.redeliveries and not self.request.get("looks_again"):
                redeliveries.note_survival(self.app, self._key(args, kwargs), self.request.id)
            if isinstance(error, MemoryError):
                # Celery would take the whole worker down with it.
                raise OutOfMemoryError from error
            if isinstance(error, StorageUnavailableError):
                raise self.retry(exc=error) from error
            raise
        if history.is_dead:
            dead_letters.clear(self.owner(args, kwargs)[0], self._key(args, kwargs), self.request.id)
            redeliveries.forget(self.app, self._key(args, kwargs))
        elif history.redeliveries:
            redeliveries.note_progress(self.app, self._key(args, kwargs))
        return result

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Whether it can be called with these. Raises ValueError and TypeError."""
        check_arguments(self.name, self.run, args, kwargs)

    def made_progress(self) -> None:
        """Something of it is done for good: what killed its worker so far lies behind it."""
        if self.has_killed:
            redeliveries.note_progress(self.app, self._key(self.request.args, self.request.kwargs))
            self.request.redeliveries = 0

    @property
    def has_killed(self) -> bool:
        """Whether workers died in the midst of it, as far as is known."""
        return bool(self.request.get("redeliveries"))

    def quarantined(self, error: PoisonedTaskError, *args: Any, **kwargs: Any) -> None:
        """Called with its arguments before it is kept from running because it keeps killing its worker."""

    def retry_delay(self, tries: int | None = None, why: Exception | None = None) -> float:
        """Seconds until the next try: exponential from the task's first delay, with jitter and a cap.

        Where `why` says when to come back it is not before that, unless the cap is.
        """
        tries = self.request.retries if tries is None else tries
        backoff: float = self.default_retry_delay * CELERY_RETRY_BACKOFF_BASE**tries
        most = get_settings().worker.retry_max_delay
        asked_for = (why.retry_after if isinstance(why, TransientError) else None) or 0
        return max(min(backoff, most) * random.uniform(_LEAST_JITTER, 1), min(asked_for, most))

    def retry(self, *args: Any, exc: Exception | None = None, **options: Any) -> Any:
        """As Celery's, but a database that is away and a login that is not due wear out no retries, and a full
        broker loses no task."""
        is_queued = not (self.request.called_directly or self.request.is_eager)
        if isinstance(exc, StorageUnavailableError | LoginDelayedError) and is_queued:
            waits = self.request.get(_WAITS_HEADER, 0)
            if waits >= _MOST_WAITS:
                raise exc
            self.request.retries -= 1
            options["countdown"] = self.retry_delay(waits, exc)
            options["headers"] = {**options.get("headers", {}), _WAITS_HEADER: waits + 1}
        try:
            return super().retry(*args, exc=exc, **options)
        except Reject as unpublished:
            # Celery would have the message thrown away.
            raise Reject(unpublished.reason, requeue=True) from unpublished

    def on_replace(self, sig: Any) -> Any:
        """As Celery's, but what a full broker does not take is given back: it goes on from what is stored."""
        try:
            return super().on_replace(sig)
        except OperationalError as unpublished:
            raise Reject(unpublished, requeue=True) from unpublished

    def look_again(self, why: Exception, seconds: float, **options: Any) -> NoReturn:
        """Come back in `seconds`, because somebody else is at it. This wears out no retries."""
        self.request.looks_again = True
        self.go_on(why, seconds, **options)

    def wait(self, why: DeliveryWaitsError) -> NoReturn:
        """It is done later by a task under the same id: until then its state is WAITING, and says when that is."""
        if self.request.called_directly or self.request.is_eager:
            raise why
        self.update_state(state=WAITING, meta=dict(why.waiting))
        raise Ignore(str(why))

    def followers(self) -> dict[str, Any]:
        """What a task that does the rest later is queued with (options of `apply_async`): the same id, and what is
        to follow this task."""
        given = self.request.as_execution_options()
        return {name: given[name] for name in _FOLLOWERS if given[name] is not None} if self.request.id else {}

    def go_on(self, why: Exception, seconds: float = 0, **options: Any) -> NoReturn:
        """Come back in `seconds`, for what is left to do. This wears out no retries."""
        self.request.retries -= 1
        raise self.retry(exc=why, countdown=seconds, **options) from why

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Keep what failed for good among the dead letters."""
        if self.request.is_eager or isinstance(exc, TimeLimitExceeded):
            return  # a task over its hard time limit comes back, and is counted
        tenant_id, user_id = self.owner(args, kwargs)
        shown_args, shown_kwargs = redact_arguments(self.run, args, kwargs)
        # By the given id: where Celery failed before the task began, there is no request any more.
        failure = dead_letters.Failure(
            task_key=self.key(args, kwargs, task_id),
            task_name=self.name,
            task_id=task_id,
            user_id=user_id,
            shown_arguments={"args": shown_args, "kwargs": shown_kwargs},
            error_code=exc.code if isinstance(exc, EmailError) else type(exc).__name__,
            error=redact_text(str(exc)),
            traceback=redact_text(str(einfo.traceback))[-_LONGEST_TRACEBACK:],
            attempts=(self.request.retries or 0) + 1,
        )
        try:
            dead_letters.bury(tenant_id, failure, args, kwargs)
        except Exception:
            logger.exception("a failed task could not be kept: %s %s", self.name, failure.shown_arguments)
            return
        redeliveries.note_death(self.app, failure.task_key)

    def _begin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> redeliveries.History:
        """Count a redelivery. Raises PoisonedTaskError after too many."""
        is_redelivered = bool((self.request.delivery_info or {}).get("redelivered"))
        history = redeliveries.begin(
            self.app, self._key(args, kwargs), self.request.id, is_redelivered=is_redelivered
        )
        if history.redeliveries > get_settings().worker.max_redeliveries:
            error = PoisonedTaskError(f"{history.redeliveries} redeliveries")
            self.quarantined(error, *args, **kwargs)
            raise error
        self.request.redeliveries = history.redeliveries
        return history

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any], task_id: str) -> str:
        """What the task with this id is to do, as one value (tasks/runtime/redeliveries.py)."""
        # Whichever way they were given, and defaults too: a sync from the command line is a sync by schedule.
        given = self._signature.bind_partial(*args, **kwargs)
        given.apply_defaults()
        own = {"": task_id} if self.is_each_its_own else {}
        return redeliveries.task_key(self.name, {**given.arguments, **own})

    def _key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        return self.key(args, kwargs, self.request.id)

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.run)

    def owner(self, args: Any, kwargs: Any) -> tuple[str, str | None]:
        """The tenant and the user of the task with these arguments."""
        given = self._signature.bind_partial(*args, **kwargs).arguments
        return given.get("tenant_id", dead_letters.NOBODY), given.get("user_id")
