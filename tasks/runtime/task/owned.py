"""The owner and the arguments of a task: both are checked
before the task is queued, and arguments are shown redacted."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from celery import Task
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from uuid_utils import uuid4

from tasks.errors import BrokerUnavailableError
from tasks.runtime import redeliveries
from tasks.runtime.arguments import check_arguments
from tasks.runtime.broker.failover import through_failover
from tasks.runtime.redaction import redact_arguments
from tasks.secrecy.secrets import secrets_kept
from tasks.settings import get_settings
from tasks.storage.dead_letters import NOBODY


class OwnedTask(Task):  # type: ignore[misc]  # celery has no types
    """A task whose arguments name its tenant and user."""

    abstract = True
    # Whether two tasks with the same arguments are two pieces of work. Two syncs of an account are the same work; two
    # messages with the same words are two.
    is_unique_per_call = False

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Queue the task.

        Raises ValueError and TypeError (tasks/runtime/arguments.py) before anything is queued, and
        BrokerUnavailableError. While a Redis with Sentinels fails over, queueing is tried again for a while, unless
        `retry` is False.
        """
        self.check_arguments(args or (), kwargs or {})
        shown_args, shown_kwargs = redact_arguments(self.run, args or (), kwargs or {})
        options = {"argsrepr": repr(shown_args), "kwargsrepr": repr(shown_kwargs), **options}
        with secrets_kept(get_settings().secrets):
            try:
                if "producer" in options or options.get("retry") is False or not get_settings().redis.sentinels:
                    return super().apply_async(args, kwargs, **options)
                # Each try publishes the same task, and is one try: Celery's own would multiply the time.
                options = {"task_id": str(uuid4()), **options, "retry": False}
                return through_failover(partial(super().apply_async, args, kwargs, **options))
            except (OperationalError, RedisError, OSError) as error:
                raise BrokerUnavailableError(str(error)) from error

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check whether the task can be called with these arguments. Raises ValueError and TypeError."""
        check_arguments(self.name, self.run, args, kwargs)

    def owner(self, args: Any, kwargs: Any) -> tuple[str, str | None]:
        """The tenant and the user of the task with these arguments."""
        given = self.arguments(args, kwargs)
        return given.get("tenant_id", NOBODY), given.get("user_id")

    def arguments(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """The given arguments by their names. Raises TypeError where they do not fit."""
        return self._signature.bind_partial(*args, **kwargs).arguments

    def positional(self, kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """These named arguments by position, with the defaults of others. Raises TypeError where they do not fit."""
        given = self._signature.bind(**kwargs)
        given.apply_defaults()
        return given.args

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any], task_id: str) -> str:
        """The key of the work that the task with this id does (tasks/runtime/redeliveries.py)."""
        # By name and with defaults, so that a sync from the command line has the same key as a sync by schedule.
        given = self._signature.bind_partial(*args, **kwargs)
        given.apply_defaults()
        own = {"": task_id} if self.is_unique_per_call else {}
        return redeliveries.task_key(self.name, {**given.arguments, **own})

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.run)
