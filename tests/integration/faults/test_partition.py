"""A network between workers and Redis goes silent for longer than they wait: no task is lost, and each is done once,
or twice if the silence lasts longer than the visibility timeout."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis as redis_client
from celery import Celery

from native.ports import LOOPBACK
from tasks.errors import BrokerUnavailableError
from tasks.registry import SYNC_EMAILS
from tasks.storage.dead_letters import list_letters
from tests.conftest import TENANT, USER
from tests.integration.faults.conftest import APP, publish
from tests.support.application import application
from tests.support.fault_app import begun, done, hold
from tests.support.packets import packets_dropped
from tests.support.proxy import Network
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until


@contextmanager
def late(network: Network) -> Iterator[None]:
    """All of it arrives when the network is mended."""
    network.be_silent(forget=False)
    yield
    network.mend()


@contextmanager
def forgotten(network: Network) -> Iterator[None]:
    """The connections of before are half open: their other end is gone, and nobody says so."""
    network.be_silent(forget=True)
    yield
    network.mend()


@contextmanager
def dropped(network: Network) -> Iterator[None]:
    """Each packet is."""
    with packets_dropped(network.port):
        yield


def publish_through_it() -> None:
    """As an application does whose Redis is behind the network of the last worker."""
    with application() as app:
        app.tasks[SYNC_EMAILS].delay("account", TENANT, USER)


MAX_SILENCE_SECONDS = 10  # until it is said, however many tasks end in it
SILENCES = {"send": late, "delete": forgotten, "spam": dropped}


Cut = tuple[Worker, Network, str, Path]


def through(network: Network, redis: RedisServer) -> str:
    """The URL of Redis for those behind the network."""
    return redis.url.replace(f":{redis.port}", f":{network.port}")


def behind_a_network(
    ended: ExitStack, redis: RedisServer, environment: Callable[..., None], folder: Path, queue: str, processes: int
) -> Cut:
    """Starts a worker with a network, a queue and a folder of its own."""
    folder.mkdir()
    network = ended.enter_context(Network((LOOPBACK, redis.port), late_seconds=0.01))
    worker = Worker(folder, processes, app=APP, queues=queue)
    ended.push(worker)
    environment(REDIS_URL=through(network, redis))
    worker.start(wait=False)
    environment(REDIS_URL=redis.url)
    return worker, network, queue, folder


def test_a_silent_network(
    client: redis_client.Redis, redis: RedisServer, environment: Callable[..., None], tmp_path: Path
) -> None:
    with ExitStack() as ended:
        # Given workers with tasks at work, each with a network and a queue of its own
        workers = [behind_a_network(ended, redis, environment, tmp_path / queue, queue, 2) for queue in SILENCES]
        held = [hold(folder) for *_, folder in workers]
        for *_, queue, folder in workers:
            publish(folder, range(3), queue=queue)  # past all networks, like whatever it publishes later
        environment(REDIS_URL=through(workers[-1][1], redis))
        wait_until(lambda: all(begun(folder) == 2 for *_, folder in workers), "some do not begin")

        # When it goes silent, the tasks end, and others are published elsewhere
        with ExitStack() as silent:
            for silence, (_, network, _, _) in zip(SILENCES.values(), workers, strict=True):
                silent.enter_context(silence(network))
            for file in held:
                file.unlink()
            for _, _, queue, folder in workers:
                publish(folder, range(3, 6), queue=queue)
            began = time.monotonic()
            with pytest.raises(BrokerUnavailableError):
                publish_through_it()
            assert time.monotonic() - began < MAX_SILENCE_SECONDS
            logs = [worker.log for worker, *_ in workers]
            wait_until(lambda: all("broker lost" in log.read_text() for log in logs), "they have not noticed")
            assert time.monotonic() - began < MAX_SILENCE_SECONDS
            assert all(len(done(folder)) >= 2 for *_, folder in workers)

        # Then they go on at once when it is mended, and each task is done once
        wait_until(lambda: all(len(done(folder)) == 6 for *_, folder in workers), "some are not done", 5)
        publish_through_it()
        assert client.llen("sync") == 1
        wait_until(lambda: not client.exists("unacked", "unacked_index"), "some are not acknowledged")
        assert all(done(folder) == dict.fromkeys(range(6), 1) for *_, folder in workers)
        assert all("Traceback" not in log.read_text() for log in logs)
    assert list_letters() == []


# Waits that are settings, short; the others are constants.
SHORT_VISIBILITY = {
    "TASK_TIMEOUT": "8",
    "CELERY_TASK_SOFT_TIME_LIMIT": "7",
    "CELERY_VISIBILITY_TIMEOUT": "10",
    "CELERY_WORKER_PREFETCH_MULTIPLIER": "2",
    "TASK_MAX_REDELIVERIES": "1",
}
MAX_CURE_SECONDS = 5  # from the cure to the next task


def longest_wait(app: Celery) -> float:
    """The longest time in seconds after which a worker, a publisher or Redis gives something up."""
    options = app.conf.broker_transport_options
    keepalive = options["socket_keepalive_options"]
    waits = {
        "an answer over a new connection": options["socket_connect_timeout"] + options["socket_timeout"],
        "an answer of the result store": app.conf.redis_socket_connect_timeout + app.conf.redis_socket_timeout,
        "a test of an idle connection to it": app.conf.redis_backend_health_check_interval,
        "a dead connection": keepalive[socket.TCP_KEEPIDLE]
        + keepalive[socket.TCP_KEEPINTVL] * keepalive[socket.TCP_KEEPCNT],
        "messages of a silent worker": options["visibility_timeout"] + options["unacked_restore_interval"],
        "the lock of a silent worker": options["unacked_mutex_expire"],
    }
    return float(max(waits.values()))


def test_a_network_that_is_silent_for_longer_than_anything_waits(
    client: redis_client.Redis, redis: RedisServer, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(**SHORT_VISIBILITY)
    with ExitStack() as ended:
        # Given workers that each have one task at work and one that waits, and a program with an open connection
        workers = [behind_a_network(ended, redis, environment, tmp_path / queue, queue, 1) for queue in SILENCES]
        for worker, *_ in workers:
            worker.wait_until_ready()
        held = [hold(folder) for *_, folder in workers]
        for *_, queue, folder in workers:
            publish(folder, range(3), queue=queue)
        environment(REDIS_URL=through(workers[-1][1], redis))
        program = ended.enter_context(application())
        program.tasks[SYNC_EMAILS].delay("account", TENANT, USER)
        wait_until(lambda: client.hlen("unacked") == 2 * len(workers), "some do not take two tasks")
        wait_until(lambda: all(begun(folder) == 1 for *_, folder in workers), "some do not begin")

        # When the networks are silent, another worker does what the silent ones have in hand
        with ExitStack() as silent:
            for silence, (_, network, *_) in zip(SILENCES.values(), workers, strict=True):
                silent.enter_context(silence(network))
            ends = time.monotonic() + longest_wait(program) + 1
            for file in held:
                file.unlink()
            for *_, queue, folder in workers:
                publish(folder, range(3, 6), queue=queue)
            environment(REDIS_URL=redis.url)
            (tmp_path / "other").mkdir()
            with Worker(tmp_path / "other", 2, app=APP, queues=",".join(SILENCES)) as other:
                expected = {0: 2, **dict.fromkeys(range(1, 6), 1)}
                wait_until(lambda: all(done(folder) == expected for *_, folder in workers), "some are not given back")
                wait_until(lambda: not client.exists("unacked", "unacked_index"), "some are not acknowledged")
                assert "Traceback" not in other.log.read_text()
            for *_, queue, folder in workers:
                publish(folder, range(6, 9), queue=queue)
            time.sleep(max(0, ends - time.monotonic()))
            assert all(done(folder) == expected for *_, folder in workers)

        # Then the silent ones go on at once when the networks are mended, also with the task that waited
        began = time.monotonic()
        expected.update({1: 2, **dict.fromkeys(range(6, 9), 1)})
        wait_until(lambda: all(done(folder) == expected for *_, folder in workers), "some are not done, or twice", 5)
        assert time.monotonic() - began < MAX_CURE_SECONDS
        program.tasks[SYNC_EMAILS].delay("account", TENANT, USER)
        assert client.llen("sync") == 2
        wait_until(lambda: not client.exists("unacked", "unacked_index"), "some are not acknowledged")
        assert all(done(folder) == expected for *_, folder in workers)
        assert all("Traceback" not in worker.log.read_text() for worker, *_ in workers)
    assert list_letters() == []
    assert not client.exists("metabuilder:aside")
