"""Publishers wait for a failover: where Redis has Sentinels, a planned switch of the master pauses writes and then
refuses them for some seconds, and an unplanned one lasts until the Sentinels agree. A call that queues a task goes
through both, instead of failing."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tasks.settings import get_settings

# No further try begins later than this. The last one may take some seconds longer: to connect, and for the answer.
PATIENCE_SECONDS = 20
_PAUSE_SECONDS = 0.5

ResultT = TypeVar("ResultT")


def through_failover(publish: Callable[[], ResultT]) -> ResultT:
    """The result of `publish`, which is called again while the master changes. It may be called after Redis took what
    it published and could not say so: it must publish the same again.

    Without Sentinels it is called once. Raises what `publish` raised last.
    """
    deadline = time.monotonic() + (PATIENCE_SECONDS if get_settings().redis.sentinels else 0)
    while True:
        try:
            return publish()
        except Exception as error:
            if time.monotonic() + _PAUSE_SECONDS > deadline or not _may_pass(error):
                raise
        time.sleep(_PAUSE_SECONDS)


def _may_pass(error: BaseException) -> bool:
    found = [one for one in _chain(error) if isinstance(one, RedisConnectionError | RedisTimeoutError)]
    return bool(found) and not any(isinstance(one, AuthenticationError) for one in found)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
