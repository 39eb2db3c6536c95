"""The processes of a worker share the memory of what the worker loaded before it started them."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import TENANT, USER, Database
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker

MAX_BYTES = 8 * 1024 * 1024  # 35 MB where a collection writes to each object


def test_a_collection_of_garbage_leaves_it_shared(
    redis: RedisServer, database: Database, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(REDIS_URL=redis.url)
    # A worker that is forked from the loaded modules of the tests would find these frozen.
    with application(fault_app), Worker(tmp_path, app="tests.support.fault_app:app", forked=False):
        grown = fault_app.collect.apply_async((TENANT, USER), queue="sync").get(timeout=60)
    assert grown < MAX_BYTES
