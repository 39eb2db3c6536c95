"""Runs what blocks (logins, statements) in a few threads, beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from tasks.log_fields import Fields, current, use
from tasks.secrecy.secrets import secrets_kept
from tasks.settings import get_settings

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """So many threads, each with the secrets of the settings known and with the log fields of whoever calls."""

    def __init__(self, number: int) -> None:
        self._pool = ThreadPoolExecutor(number, thread_name_prefix="watch")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the function. If the caller is cancelled, the function runs to its end all the same."""
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, _with_secrets, current(), lambda: function(*args, **kwargs)
        )

    async def open(self, function: Callable[[], T], close: Callable[[T], None]) -> T:
        """As `run`, for a result that has to be closed if the caller is cancelled meanwhile."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, _with_secrets, current(), function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(partial(_close_result, close))
            raise

    def close(self) -> None:
        """Begin nothing more, and wait for no login that is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _close_result(close: Callable[[T], None], done: "asyncio.Future[T]") -> None:
    if not done.cancelled() and done.exception() is None:
        close(done.result())


def _with_secrets(fields: Fields, function: Callable[[], T]) -> T:
    use(fields)
    with secrets_kept(get_settings().secrets):
        return function()
