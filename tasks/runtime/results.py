"""The result store, in which tasks note their states and results: Celery's store in Redis, changed so that a fault of
the store never makes a task fail.

Where a state cannot be stored, Celery fails the task, even if the task has not begun or is done. The cause may be a
connection that went stale in a silent network, a Redis that is full or restarts, or a key that holds something else.
Here the state is stored again on a fresh connection. If that fails too, it is logged once for each outage, and the
task goes on. Whoever waits for the result of such a task waits in vain; what the task did is in PostgreSQL.

A program that waits for a result asks the store again and again. Celery would subscribe to results instead. After it
could not subscribe anew for 20 s, no result arrives in that process any more ("The Celery application must be
restarted"). And on a connection that a network cut silently, Celery waits in vain for a result that is in the store.
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
from tasks.runtime.broker.master import connection_options
from tasks.runtime.owners import note as note_owner
from tasks.settings import get_settings

_logger = get_logger(__name__)

_ERRORS = (redis_errors.RedisError, OperationalError, OSError)
# A store that did not answer at all is left alone for this long, because waiting for it holds up the tasks.
_PAUSE_SECONDS = 15
# The state of a task whose work another task does later, under the same id. The state is kept for longer than the
# longest pause between two tries.
WAITING = "WAITING"
_WAITING_SECONDS = 2 * 3600
# Written to find out whether the store takes anything, and gone after a second.
_CHECK = "metabuilder:results:check"
_UNKNOWN = {"status": states.PENDING, "result": None}
# The pause between two questions for a result: short at first,
# as most tasks are quick, then longer, up to `interval`.
_FIRST_LOOK_SECONDS, _LATER = 0.01, 1.5
# A program that waits for a result tolerates a store that is away for this long, such as one that restarts.
_AWAY_SECONDS = 10
# After so many seconds without the result the program finds out whether the store takes results at all, and again
# after as many: a store that is full answers questions, but the result never comes into it.
_CHECK_SECONDS = 5


class ResultStore(SyncBackendMixin, RedisBackend):  # type: ignore[misc]  # celery has no types
    """Celery's result store, which tasks can do without, and which is polled for results."""

    _is_away = False
    _silent_until = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The client itself does not try again: `_on_a_fresh_connection` does.
        self.connparams["retry"] = Retry(NoBackoff(), 0)
        self.connparams["socket_keepalive_options"] = self.app.conf.broker_transport_options[
            "socket_keepalive_options"
        ]
        has_sentinels = self._transport_options.get("master_name")
        sentinels = get_settings().redis.results.sentinels if has_sentinels else None
        self.connparams.update(connection_options(self.url, sentinels))

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Do nothing: Celery would subscribe to the result before it publishes the task, and fail if it could not."""

    def wait_for_pending(self, result: Any, *args: Any, on_message: Any = None, **options: Any) -> Any:
        """Wait for the result of one task, as Celery does. Raises ImproperlyConfigured for `on_message`."""
        _refuse(on_message)
        return super().wait_for_pending(result, *args, **options)

    def iter_native(self, result: Any, *args: Any, on_message: Any = None, **options: Any) -> Any:
        """Wait for the results of a group, as Celery does.

        Raises ImproperlyConfigured for `on_message`, ResultsUnavailableError as `wait_for` does.
        """
        _refuse(on_message)
        options["on_interval"] = self._checking(options.get("on_interval"))
        return super().iter_native(result, *args, **options)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,  # noqa: ARG002 - as Celery's
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """Wait until a task is done, and return its state.

        Raises celery.exceptions.TimeoutError after `timeout` seconds, and ResultsUnavailableError where the store
        does not answer, or takes no results.
        """
        between = self._checking(on_interval)
        began, pause = time.monotonic(), _FIRST_LOOK_SECONDS
        while (meta := self.ask_patiently(task_id))["status"] not in states.READY_STATES:
            between()
            left = None if timeout is None else began + timeout - time.monotonic()
            if left is not None and left <= 0:
                raise NoResultError(f"task {task_id} is not done after {timeout} s")
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * _LATER, interval)
        return meta

    def ask_patiently(self, task_id: str) -> dict[str, Any]:
        """The state of a task, asked for several times while the store is away.

        Raises ResultsUnavailableError after 10 s.
        """
        return _patiently(self.get_task_meta, task_id)  # type: ignore[no-any-return]

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """The state of a task. Raises ResultsUnavailableError."""
        with _unavailable():
            return super().get_task_meta(task_id, cache)  # type: ignore[no-any-return]

    def mget(self, keys: Any) -> Any:
        """The states of many tasks, for programs that wait for a group. Raises ResultsUnavailableError."""

        def ask() -> Any:
            with _unavailable():
                return super(ResultStore, self).mget(keys)

        return _patiently(ask)

    def check_takes_results(self) -> None:
        """Raises ResultsUnavailableError where nothing can be noted: whoever waits for a result waits in vain."""
        with _unavailable():
            self.client.set(_CHECK, 1, ex=1)

    def _checking(self, on_interval: Callable[[], Any] | None) -> Callable[[], None]:
        """What to call between two questions for a result: `on_interval`, and from time to time the check that the
        store takes results."""
        checked = time.monotonic()

        def between() -> None:
            nonlocal checked
            if on_interval:
                on_interval()
            if time.monotonic() - checked > _CHECK_SECONDS:
                _patiently(self.check_takes_results)
                checked = time.monotonic()

        return between

    def forget(self, task_id: str) -> None:
        """Delete the stored state of a task. Raises ResultsUnavailableError."""
        with _unavailable():
            super().forget(task_id)

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        """Store a task's state, or log once for each outage that it could not be stored.

        Never raises errors of the store.
        """
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
        """As Celery's, with the owner of the task."""
        meta: dict[str, Any] = super()._get_result_meta(result, state, traceback, request, **options)
        task = self.app.tasks.get(getattr(request, "task", None))
        return {**meta, **note_owner(task, request.args, request.kwargs)} if task else meta

    def _on_a_fresh_connection(self, note: Callable[[], Any]) -> Any:
        """Call `note`, and call it again on a fresh connection where the pooled connections are broken."""
        # A master that is silent may have been replaced by now; a Redis that is alone is as silent the next time.
        broken = (
            redis_errors.ConnectionError,
            *([redis_errors.TimeoutError] if "sentinels" in self.connparams else ()),
        )
        try:
            return note()
        except broken:
            self.client.connection_pool.disconnect(inuse_connections=False)
            return note()

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        noted = super()._set_with_state(key, value, state)
        if state == WAITING and self.expires:
            self.client.expire(key, max(self.expires, _WAITING_SECONDS))
        return noted

    def set(self, key: Any, value: Any, expires: Any = None, **retry_policy: Any) -> Any:
        """As Celery's, but without further tries: Celery's tries for 20 s."""
        return super().set(key, value, expires, **{**retry_policy, "max_retries": 0})

    def get(self, key: Any) -> Any:
        """The value of a key; None where the key holds another type."""
        try:
            return super().get(key)
        except redis_errors.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return None
            raise

    def decode_result(self, payload: Any) -> dict[str, Any]:
        """A task's state, read from the stored value.

        A value that is no state counts as the state of an unknown task.
        """
        try:
            meta: dict[str, Any] = super().decode_result(payload)
            is_state = isinstance(meta["status"], str) and isinstance(meta["task_id"], str) and "result" in meta
            for child in meta.get("children") or ():
                result_from_tuple(child, self.app)
        except Exception:  # the value may be anything, so Celery may raise anything
            is_state = False
        if not is_state:
            _logger.warning("a result that cannot be read counts as none")
            return dict(_UNKNOWN)
        return meta


def _refuse(on_message: Any) -> None:
    """Raise for `on_message`: Celery would call it only for groups, and only with the last state of each task."""
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
