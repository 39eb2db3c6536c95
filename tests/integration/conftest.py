"""What several of the folders here use."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.application import Broker, application
from tests.support.servers import RedisServer


@pytest.fixture
def broker(redis: RedisServer, environment: Callable[..., None]) -> Iterator[Broker]:
    """An empty Redis, and the application that uses it."""
    environment(REDIS_URL=redis.url)
    with application() as app:
        yield Broker(app)
