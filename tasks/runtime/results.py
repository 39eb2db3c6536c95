"""Where tasks note their state and results: Celery's Redis, which here never decides what becomes of a task.

Celery lets a task fail that has not begun, or is done, where its state cannot be noted: a connection that went stale
under a silent network, a Redis that is full or restarts, a key that holds something else. Here it is noted anew on a
fresh connection; what cannot be noted then is said once an outage, and the task goes on. Whoever waits for the result
of such a task waits in vain: what a task did is in PostgreSQL.

Whoever waits for a result asks for it again and again. Celery subscribes to results instead, and where it could not
subscribe anew for 20 s no result arrives in that process any more ("The Celery application must be restarted"); a
connection that a network swallowed tells it nothing, and it waits in vain although the result is there.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from celery import states
from celery.backends.base import SyncBackendMixin
from celery.backends.redis import RedisBackend
from celery.exceptions import ImproperlyConfigured
from celery.exceptions import TimeoutError as NoResultError
from celery.result import result_from_tuple
from kombu.exceptions import OperationalError
from kombu.log import get_logger
from kombu.utils.functional import retry_over_time
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.errors import ResultsUnavailableError
from tasks.runtime.owners import note as note_owner

_logger = get_logger(__name__)

_ERRORS = (redis_errors.RedisError, OperationalError, OSError)
# A store that did not answer at all is not asked again for so long: waiting for it holds up the tasks.
_PAUSE_SECONDS = 15
# The state of a task that is done later, under the same id. It is told for longer than the longest pause.
WAITING = "WAITING"
_WAITING_SECONDS = 2 * 3600
_UNKNOWN = {"status": states.PENDING, "result": None}
# Between two questions for a result: short at first, as most tasks take no longer, and then what the caller wants.
_FIRST_LOOK_SECONDS, _LATER = 0.01, 1.5
# Whoever waits for a result bears a store that is away for so long, such as one that restarts.
_AWAY_SECONDS = 10


class ResultStore(SyncBackendMixin, RedisBackend):  # type: ignore[misc]  # celery has no types
    """Celery's, which a task does without, and which is asked for results."""

    _is_away = False
    _silent_until = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The second try is made here, and on a fresh connection.
        self.connparams["retry"] = Retry(NoBackoff(), 0)
        self.connparams["socket_keepalive_options"] = self.app.conf.broker_transport_options[
            "socket_keepalive_options"
        ]

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Celery subscribes to each result before it publishes the task, and fails if it cannot."""

    def wait_for_pending(self, result: Any, *args: Any, on_message: Any = None, **options: Any) -> Any:
        """Celery's for one task. Raises ImproperlyConfigured for `on_message`."""
        _refuse(on_message)
        return super().wait_for_pending(result, *args, **options)

    def iter_native(self, result: Any, *args: Any, on_message: Any = None, **options: Any) -> Any:
        """Celery's for a group. Raises ImproperlyConfigured for `on_message`."""
        _refuse(on_message)
        return super().iter_native(result, *args, **options)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,  # noqa: ARG002 - as Celery's
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """The state of a task once it is done.

        Raises celery.exceptions.TimeoutError after `timeout` seconds, ResultsUnavailableError.
        """
        began, pause = time.monotonic(), _FIRST_LOOK_SECONDS
        while (meta := self.ask_patiently(task_id))["status"] not in states.READY_STATES:
            if on_interval:
                on_interval()
            left = None if timeout is None else began + timeout - time.monotonic()
            if left is not None and left <= 0:
                raise NoResultError(f"task {task_id} is not done after {timeout} s")
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * _LATER, interval)
        return meta

    def ask_patiently(self, task_id: str) -> dict[str, Any]:
        """The state of a task. Raises ResultsUnavailableError where the store does not say it for too long."""
        return _patiently(self.get_task_meta, task_id)  # type: ignore[no-any-return]

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """The state of a task. Raises ResultsUnavailableError."""
        with _unavailable():
            return super().get_task_meta(task_id, cache)  # type: ignore[no-any-return]

    def mget(self, keys: Any) -> Any:
        """Many states, for those who wait for many tasks. Raises ResultsUnavailableError."""

        def ask() -> Any:
            with _unavailable():
                return super(ResultStore, self).mget(keys)

        return _patiently(ask)

    def forget(self, task_id: str) -> None:
        """Remove what is noted of a task. Raises ResultsUnavailableError."""
        with _unavailable():
            super().forget(task_id)

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        """Note a task's state, if it can be noted."""
        if time.monotonic() < self._silent_until:
            return result
        note = partial(super().store_result, task_id, result, state, *args, **kwargs)
        try:
            noted = self._on_a_fresh_connection(note)
        except _ERRORS as error:
            if isinstance(error, redis_errors.TimeoutError):
                self._silent_until = time.monotonic() + _PAUSE_SECONDS
            if not self._is_away:
                _logger.warning("the result store does not take what tasks come to, and they go on: %s", error)
            self._is_away = True
            return result
        self._is_away = False
        return noted

    def _get_result_meta(
        self, result: Any, state: str, traceback: Any, request: Any, **options: Any
    ) -> dict[str, Any]:
        """Celery's, and whose task it is."""
        meta: dict[str, Any] = super()._get_result_meta(result, state, traceback, request, **options)
        task = self.app.tasks.get(getattr(request, "task", None))
        return {**meta, **note_owner(task, request.args, request.kwargs)} if task else meta

    def _on_a_fresh_connection(self, note: Callable[[], Any]) -> Any:
        """Once more where those at hand are broken."""
        try:
            return note()
        except redis_errors.ConnectionError:
            self.client.connection_pool.disconnect(inuse_connections=False)
            return note()

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        noted = super()._set_with_state(key, value, state)
        if state == WAITING and self.expires:
            self.client.expire(key, max(self.expires, _WAITING_SECONDS))
        return noted

    def set(self, key: Any, value: Any, expires: Any = None, **retry_policy: Any) -> Any:
        """Celery's tries for 20 s."""
        return super().set(key, value, expires, **{**retry_policy, "max_retries": 0})

    def get(self, key: Any) -> Any:
        """What is noted under a key; None where it holds no text."""
        try:
            return super().get(key)
        except redis_errors.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return None
            raise

    def decode_result(self, payload: Any) -> dict[str, Any]:
        """A task's state out of what is noted, which may be anything: where it is none, the task is unknown."""
        try:
            meta: dict[str, Any] = super().decode_result(payload)
            is_state = isinstance(meta["status"], str) and isinstance(meta["task_id"], str) and "result" in meta
            for child in meta.get("children") or ():
                result_from_tuple(child, self.app)
        except Exception:  # whatever Celery makes of it
            is_state = False
        if not is_state:
            _logger.warning("a result that cannot be read counts as none")
            return dict(_UNKNOWN)
        return meta


def _refuse(on_message: Any) -> None:
    """Celery would call it for a group alone, and with the last state of each task alone."""
    if on_message is not None:
        raise ImproperlyConfigured(
            "get(on_message=...) is not supported: results are asked for, so states on the way are not told. "
            "Leave it out; get_task_status(task_id) tells how far a task is"
        )


def _patiently(ask: Callable[..., Any], *arguments: Any) -> Any:
    return retry_over_time(
        ask, ResultsUnavailableError, arguments, interval_start=1, interval_step=0, timeout=_AWAY_SECONDS
    )


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise ResultsUnavailableError(str(error)) from error
