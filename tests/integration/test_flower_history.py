"""What Flower shows of tasks: each from the first on, redacted, in a browser, and again after a restart."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from native.errors import StackError
from native.ports import free_port
from native.programs import FLOWER_REMEMBERS
from native.state import ROOT
from tasks.registry import QUEUES
from tests.conftest import TENANT, USER, Database, unavailable
from tests.integration.faults.conftest import APP, Queue
from tests.support.chromium import Chromium
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

USER_NAME, PASSWORD = "admin", "sample: % and # in it"
WORDS = "sample words of a mail"
STATES = {"done": "SUCCESS", "failed": "FAILURE", "drained": "SUCCESS"}


class Flower:
    """Started as the native stack starts it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def answer(self, path: str) -> bytes:
        """The body of a page."""
        login = b64encode(f"{USER_NAME}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Basic {login}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def states(self) -> dict[str, str]:
        """By the task's id."""
        try:
            return {task: found["state"] for task, found in json.loads(self.answer("/api/tasks")).items()}
        except OSError:
            return {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs for the block; then it is stopped as supervisor does."""
        command = (sys.executable, "-m", "celery", "-A", APP, "flower", "--address=127.0.0.1")
        own = (f"--port={self.port}", f"--db={self.folder / 'flower'}", *FLOWER_REMEMBERS)
        environment = {**os.environ, "FLOWER_BASIC_AUTH": f"{USER_NAME}:{PASSWORD}", "PYTHONPATH": str(ROOT)}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *own], cwd=ROOT, env=environment, stdout=log, stderr=log, umask=0o077
            )
            try:
                wait_until(self.is_there, "its pages do not answer")
                yield
            finally:
                process.terminate()
                process.wait(30)

    def is_there(self) -> bool:
        """Whether its pages answer."""
        try:
            return bool(self.answer("/api/queues/length"))
        except OSError:
            return False


def test_it_shows_tasks_from_the_first_on_and_after_a_restart(
    redis: RedisServer, database: Database, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(REDIS_URL=redis.url)
    flower = Flower(tmp_path, free_port())
    queue = Queue()
    for name in STATES:
        (tmp_path / name).mkdir()
    (tmp_path / "done" / "mended").touch()

    def queued(name: str, what: str) -> str:
        arguments = (TENANT, USER, str(tmp_path / name), what, WORDS)
        return str(queue.app.send_task("test.fault", arguments, queue="sync").id)

    # Given a worker whose first tasks are done before Flower asks for its events
    with flower.running():
        with Worker(tmp_path, app=APP, concurrency=2) as worker:
            ids = {"done": queued("done", "wrong"), "failed": queued("failed", "wrong")}
            expected = {ids[name]: STATES[name] for name in ids}
            wait_until(lambda: flower.states() == expected, "Flower does not know what became of the tasks")
            look(flower, ids, tmp_path)
            # and a task that ends while the worker stops
            ids["drained"] = queued("drained", "slow")
            wait_until(lambda: flower.states().get(ids["drained"]) == "STARTED", "it does not begin")
            os.kill(worker.pid, signal.SIGTERM)
            worker.wait(30)
        expected = {ids[name]: STATES[name] for name in ids}
        wait_until(lambda: flower.states() == expected, "the last outcome is missing")

    # Then the next Flower knows them as well, from a file that nobody else may read
    files = [*tmp_path.glob("flower*")]
    assert files
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    with flower.running():
        assert flower.states() == expected
    queue.close()


def look(flower: Flower, ids: dict[str, str], folder: Path) -> None:
    """Log in with a browser, and read the pages of workers, tasks, the failed task and the broker."""
    try:
        with Chromium(folder / "profile", flower.port) as chromium:
            shown = partial(text_of, chromium)
            login = f"{quote(USER_NAME, safe='')}:{quote(PASSWORD, safe='')}"
            shown(f"http://{login}@flower.test/broker", "sync")
            tasks = shown("http://flower.test/tasks", ids["failed"])
            chromium.picture("flower-tasks")
            for name, task in ids.items():
                assert re.search(rf"test\.fault\s+{task}\s+{STATES[name]}", tasks)
            # Active, processed, failed, succeeded
            shown("http://flower.test/workers", re.compile(r"celery@\S+\s+Online\s+0\s+2\s+1\s+1\s"))
            chromium.picture("flower-workers")
            broker = shown("http://flower.test/broker", "sync")
            chromium.picture("flower-broker")
            assert all(name in broker for name in QUEUES)
            failed = shown(f"http://flower.test/task/{ids['failed']}", "FAILURE")
            chromium.picture("flower-task")
            assert "It is wrong" in failed
            assert f"<{len(WORDS)} characters>" in failed
            assert WORDS not in failed
            assert "ann@" not in failed
    except StackError as error:
        unavailable(str(error))


def text_of(chromium: Chromium, address: str, awaited: str | re.Pattern[str]) -> str:
    """What a page shows when it shows the awaited text."""
    chromium.call("Page.navigate", url=address)
    shown = ""

    def is_shown() -> bool:
        nonlocal shown
        shown = str(chromium.evaluate("document.body ? document.body.innerText : ''"))
        return bool(re.search(awaited, shown))

    try:
        wait_until(is_shown, f"{address.rpartition('@')[2]} does not show {awaited}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {shown[:2000]}") from None
    return shown
