"""A real worker on real servers, with all waits short."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from celery.result import AsyncResult
from kombu import Consumer
from kombu import Queue as KombuQueue

from tasks.celery_app import create_celery_app
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, USER, Database
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

# The application with tasks that misbehave, for workers.
APP = "tests.support.fault_app:app"

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

# From the cure of a Redis until a task that is queued at that moment is done: the five seconds that are promised, and
# three for the publisher's own connection and for the other tests that share the machine.
MAX_CURE_SECONDS = 5 + 3
# Of a worker whose tasks are short.
MAX_STOP_SECONDS = 20


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


@pytest.fixture
def client(redis: RedisServer, database: Database, environment: Callable[..., None]) -> Iterator[redis_client.Redis]:
    """A connection to the broker's database, which is empty. The tasks of `fault_app` are published there."""
    environment(REDIS_URL=redis.url, **SHORT_WAITS)
    with broker(redis) as client, application(fault_app):
        yield client


@pytest.fixture
def connect(client: redis_client.Redis) -> Iterator[Callable[[], tuple[Any, list[Any]]]]:
    """Makes a consumer of the queue `send` in this process; its channel, and what it got."""
    with ExitStack() as ended:

        def consume() -> tuple[Any, list[Any]]:
            connection = ended.enter_context(fault_app.app.connection_for_read())
            got: list[Any] = []
            channel = connection.channel()
            Consumer(channel, [KombuQueue("send", routing_key="send")], on_message=got.append).consume()
            return channel, got

        yield consume


def publish(folder: Path, numbers: Iterable[int], **options: Any) -> None:
    """Queue a task for each number, which leaves its mark in the folder."""
    for number in numbers:
        fault_app.count.apply_async((TENANT, USER, str(folder), number), **{"queue": "sync", **options})


def seconds_until_done(folder: Path, number: int, **options: Any) -> float:
    """How long a task takes that is queued now, by the clock: `wait_until` is more patient than it says."""
    began = time.monotonic()
    publish(folder, [number], **options)
    wait_until(lambda: fault_app.done(folder)[number], f"{number} is not done")
    return time.monotonic() - began


def stop(worker: Worker) -> float:
    """Stop it as its unit is stopped; how many seconds that takes."""
    began = time.monotonic()
    os.kill(worker.pid, signal.SIGTERM)
    worker.wait(MAX_STOP_SECONDS)
    return time.monotonic() - began


def broker(server: RedisServer) -> redis_client.Redis:
    """A connection to the broker's database."""
    return redis_client.Redis(port=server.port, password=server.password, decode_responses=True)


def drain(channel: Any, is_true: Callable[[], object], seconds: float = 10) -> None:
    """Let the consumer of this channel take messages until it is true."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        try:
            channel.connection.client.drain_events(timeout=0.2)
        except TimeoutError:
            continue
