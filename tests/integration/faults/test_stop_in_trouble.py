"""A worker that is stopped in the midst of any trouble with its broker takes its normal time, and loses no task."""

import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from native.ports import LOOPBACK
from tasks.storage.dead_letters import list_letters
from tests.conftest import Database
from tests.integration.faults.conftest import APP, SHORT_WAITS, broker, publish
from tests.support import fault_app
from tests.support.application import application
from tests.support.fault_app import begun, done, hold
from tests.support.proxy import Network
from tests.support.servers import RedisServer
from tests.support.trouble import in_trouble
from tests.support.worker import Worker, wait_until

MAX_STOP_SECONDS = 25
AT_WORK, WAITING = 2, 8
ANSWER_SECONDS = 2.8  # of a slow Redis
TROUBLES = ("away", "silent", "full", "out of clients", "read-only", "out of descriptors", "slow")
# With these all messages in hand are given back at once; with the others, after the visibility timeout.
ANSWER = ("full", "slow")


class Site(NamedTuple):
    """A worker, its broker and the network between them."""

    trouble: str
    server: RedisServer
    network: Network
    worker: Worker
    folder: Path


@contextmanager
def trouble_of(site: Site) -> Iterator[None]:
    if site.trouble == "slow":
        site.network.late_seconds = ANSWER_SECONDS / 2  # each way
        yield
    elif site.trouble == "out of descriptors":
        for pid in (site.worker.pid, *(child.pid for child in site.worker.children())):
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, hard))
        with broker(site.server) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        yield
    else:
        with in_trouble(site.server, site.trouble):
            yield


@pytest.fixture
def sites(database: Database, environment: Callable[..., None], tmp_path: Path) -> Iterator[list[Site]]:
    """One for each trouble, with tasks at work, and others that the worker holds until their time comes."""
    with ExitStack() as ended:
        made: list[Site] = []
        for trouble in TROUBLES:
            (folder := tmp_path / trouble).mkdir()
            server = ended.enter_context(RedisServer(folder / "redis"))
            network = ended.enter_context(Network((LOOPBACK, server.port)))
            environment(REDIS_URL=server.url, FAULT_VISIBILITY_TIMEOUT="1000", **SHORT_WAITS)
            hold(folder)
            with application(fault_app):
                publish(folder, range(AT_WORK, AT_WORK + WAITING), countdown=600)
                publish(folder, range(AT_WORK))
            environment(
                REDIS_URL=server.url.replace(f":{server.port}", f":{network.port}"),
                CELERY_RESULT_BACKEND=f"{server.url}/1",
            )
            worker = Worker(folder, AT_WORK, app=APP, options=())  # with all that it has to say goodbye to
            ended.push(worker)
            worker.start(wait=False)
            made.append(Site(trouble, server, network, worker, folder))
        wait_until(lambda: all(begun(site.folder) == AT_WORK for site in made), "some have not begun")
        yield made


def test_a_stop_takes_its_normal_time(sites: list[Site]) -> None:
    with ExitStack() as troubles:
        for site in sites:
            troubles.enter_context(trouble_of(site))
            (site.folder / "held").unlink()
        began = time.monotonic()
        for site in sites:
            psutil.Process(site.worker.pid).send_signal(signal.SIGTERM)
        took: dict[str, float] = {}
        while left := [site for site in sites if site.trouble not in took]:
            for site in left:
                if site.worker.has_ended():
                    took[site.trouble] = round(time.monotonic() - began, 1)
            assert time.monotonic() - began < MAX_STOP_SECONDS, [site.trouble for site in left]
            time.sleep(0.05)
        print(f"seconds until it has stopped: {took}")

    for site in sites:
        with broker(site.server) as client:
            noted, queued = client.hlen("unacked"), client.llen("sync")
        assert set(done(site.folder).values()) <= {1}, site.trouble
        assert noted + queued >= WAITING, site.trouble
        if site.trouble in ANSWER:
            assert (len(done(site.folder)), noted, queued) == (AT_WORK, 0, WAITING), site.trouble
    assert list_letters() == []
