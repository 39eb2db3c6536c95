"""A real worker on real servers, with all waits short."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from celery.result import AsyncResult

from native.redis import RedisServer
from tasks.celery_app import create_celery_app
from tasks.storage.accounts import Account
from tests.conftest import Database
from tests.support.worker import Worker

# Short waits everywhere: what takes minutes in production takes seconds here, in the same order.
SHORT_WAITS = {
    "SYNC_LEASE_SECONDS": "3",
    "SYNC_BATCH_SIZE": "20",
    "DELETE_BATCH_SIZE": "20",
    "MAIL_TIMEOUT": "3",
    "TASK_TIMEOUT": "20",
    "CELERY_TASK_SOFT_TIME_LIMIT": "15",
    "TASK_RETRY_MAX_DELAY": "1",
    "CELERY_VISIBILITY_TIMEOUT": "22",
    "TASK_MAX_REDELIVERIES": "100",  # here the tests kill the workers, not the tasks
}


class Queue:
    """Sends syncs to the worker as the application does."""

    def __init__(self) -> None:
        self.app = create_celery_app()

    def sync(self, account: Account, **options: Any) -> AsyncResult:
        """Queue a sync."""
        args = (account.id, account.tenant_id, account.user_id)
        return self.app.send_task("email_service.tasks.sync_emails", args, queue="sync", **options)

    def close(self) -> None:
        """Close its connections."""
        self.app.close()


@pytest.fixture
def short_waits(redis: RedisServer, database: Database, environment: Callable[..., None]) -> None:
    """The environment of the worker."""
    environment(REDIS_URL=redis.url, **SHORT_WAITS)
    with broker(redis) as client:
        client.flushall()


@pytest.fixture
def worker(short_waits: None, tmp_path: Path) -> Iterator[Worker]:
    """A worker that consumes. Its log is shown where a test fails."""
    with Worker(tmp_path) as worker:
        yield worker


@pytest.fixture
def tasks_queue(short_waits: None) -> Iterator[Queue]:
    """Where to send syncs."""
    queue = Queue()
    yield queue
    queue.close()


def broker(server: RedisServer) -> redis_client.Redis:
    """A connection to the broker's database."""
    return redis_client.Redis(port=server.port, password=server.password, decode_responses=True)
