"""A network between workers and Redis goes silent for longer than they wait: each task is done once, and soon."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis as redis_client

from native.ports import LOOPBACK
from tasks.celery_app import create_celery_app
from tasks.errors import BrokerUnavailableError
from tasks.registry import SYNC_EMAILS
from tasks.storage.dead_letters import list_letters
from tests.conftest import TENANT, USER, unavailable
from tests.integration.faults.conftest import APP, publish
from tests.support.application import application
from tests.support.fault_app import begun, done, hold
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
    table = f"metabuilder_test_{network.port}"
    rules = f"""table inet {table} {{
        chain input {{
            type filter hook input priority 0
            iif lo tcp dport {network.port} drop
            iif lo tcp sport {network.port} drop
        }}
    }}"""
    try:
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        unavailable(f"packets cannot be dropped here: {error}")
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)


def publish_through_it() -> None:
    """As an application does whose Redis is behind the network of the last worker."""
    with application(create_celery_app()) as app:
        app.tasks[SYNC_EMAILS].delay("account", TENANT, USER)


MAX_SILENCE_SECONDS = 10  # until it is said, however many tasks end in it
SILENCES = {"send": late, "delete": forgotten, "spam": dropped}


def test_a_silent_network(
    client: redis_client.Redis, redis: RedisServer, environment: Callable[..., None], tmp_path: Path
) -> None:
    with ExitStack() as ended:
        # Given workers with tasks at work, each with a network and a queue of its own
        workers: list[tuple[Worker, Network, str, Path]] = []
        held: list[Path] = []
        for queue in SILENCES:
            folder = tmp_path / queue
            folder.mkdir()
            held.append(hold(folder))
            publish(folder, range(3), queue=queue)  # past all networks, like whatever it publishes later
            network = ended.enter_context(Network((LOOPBACK, redis.port), late_seconds=0.01))
            environment(REDIS_URL=redis.url.replace(f":{redis.port}", f":{network.port}"))
            worker = Worker(folder, 2, app=APP, queues=queue)
            ended.push(worker)
            worker.start(wait=False)
            workers.append((worker, network, queue, folder))
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
