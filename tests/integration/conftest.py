"""What several of the folders here use."""

from collections.abc import Callable, Iterator

import pytest
import redis as redis_client

from tests.support.application import Broker, application
from tests.support.servers import RedisServer


@pytest.fixture
def broker(redis: RedisServer, environment: Callable[..., None]) -> Iterator[Broker]:
    """An empty Redis, and the application that uses it."""
    environment(REDIS_URL=redis.url)
    with redis_client.Redis(port=redis.port, password=redis.password) as client:
        client.flushall()
    with application() as app:
        yield Broker(app)
