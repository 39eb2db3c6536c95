"""What is said of a Redis with Sentinels that fails, and what to do."""

from collections.abc import Callable

import pytest
from redis import exceptions

from native.redis_trouble import sentence
from tasks.runtime.broker.master import MasterLostError
from tasks.settings import load

DEMOTED = "You can't write against a read only replica."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            exceptions.ConnectionError("no Sentinel knows where the master broker is: h:1: refused"),
            "has no master now",
        ),
        (MasterLostError("Redis at redis1:6379 is no master but a replica"), "has no master now"),
        (MasterLostError(DEMOTED), "Wait for the Sentinels"),
        (MasterLostError("NOREPLICAS Not enough good replicas to write."), "Wait for the Sentinels"),
    ],
)
def test_a_master_that_fails_is_left_to_the_sentinels(
    environment: Callable[..., None], error: Exception, said: str
) -> None:
    environment(REDIS_SENTINELS="redis1:26379", REDIS_URL="")
    redis = load().redis
    broker = sentence(error, redis.broker)
    assert broker.startswith("Redis (master broker of the Sentinels) ")
    assert said in broker
    assert sentence(error, redis.results).startswith("The result store (Redis (master broker of the Sentinels)) ")


def test_a_replica_without_sentinels_is_for_a_person(environment: Callable[..., None]) -> None:
    environment(REDIS_URL="redis://redis1:6379")
    words = sentence(exceptions.ReadOnlyError(DEMOTED), load().redis.broker)
    assert words.startswith("Redis at redis1:6379 is a replica and takes no writes")
    assert "Set REDIS_URL to the primary" in words
