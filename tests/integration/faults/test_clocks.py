"""Clocks that are minutes off: nothing is thrown away, nothing waits for long, and it is said."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from native.redis import RedisServer
from tests.conftest import unavailable
from tests.integration.faults.conftest import Queue, broker
from tests.support.worker import Worker, wait_until

LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")


@pytest.fixture
def shifted(environment: Callable[..., None]) -> Callable[[str], None]:
    """Processes that are started from now on have a clock that is off by this."""
    found = [path for folder in LIBRARIES if (path := Path(folder) / "libfaketime.so.1").exists()]
    if not found:
        unavailable("faketime is not installed: apt-get install faketime")
    return lambda by: environment(LD_PRELOAD=str(found[0]), FAKETIME=by, FAKETIME_DONT_FAKE_MONOTONIC="1")


@pytest.mark.parametrize(("by", "words"), [("+600s", "600 s ahead of"), ("-600s", "600 s behind")])
def test_a_worker_whose_clock_is_off_throws_nothing_away_and_says_so(
    short_waits: None,
    tasks_queue: Queue,
    redis: RedisServer,
    tmp_path: Path,
    shifted: Callable[[str], None],
    by: str,
    words: str,
) -> None:
    shifted(by)
    with Worker(tmp_path) as worker:
        # One that expires in a while, as beat queues it; one that expired; one that is due in a second
        send = tasks_queue.app.send_task
        name = "email_service.tasks.periodic_sync"
        fresh = send(name, queue="periodic", expires=300)
        late = send(name, queue="periodic", expires=datetime.now(UTC) - timedelta(seconds=20))
        soon = send(name, queue="periodic", countdown=1)
        assert fresh.get(timeout=60)["status"] == "success"
        assert soon.get(timeout=60)["status"] == "success"
        wait_until(lambda: late.state == "REVOKED", "what expired ran")
        wait_until(lambda: words in worker.log.read_text(), "it is not said")
        with broker(redis) as client:
            wait_until(lambda: not client.zcard("unacked_index"), "a delivery is left over")
