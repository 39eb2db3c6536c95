"""`top` on a real terminal, with a real worker, Redis and PostgreSQL."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import redis as redis_client
from rich.cells import cell_len

from native.postgres import libpq
from native.state import ROOT
from tasks.monitoring.report import WORKERS
from tasks.runtime.revocations import revocations
from tasks.storage.accounts.rows import NewAccount, add_account
from tests.conftest import TENANT, USER, Database
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

APP = "tests.support.fault_app:app"
SENT = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202e[bold]"
_STYLE = re.compile(r"\x1b\[[\d;]*m")


class Terminal:
    """`top` as `metabuilder` runs it, and what stands on its terminal."""

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        self._leader, follower = pty.openpty()
        self._resize(follower, rows, columns)
        environment = {
            **os.environ,
            "TERM": "xterm-256color",
            # As a shell may export them: what they say is wrong once the terminal has another size.
            "COLUMNS": str(columns),
            "LINES": str(rows),
            "METABUILDER_COMMAND": "metabuilder",
            "PYTHONUTF8": "1",
        }
        command = [sys.executable, "-m", "manage", "top"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        )
        self.follower = follower
        self.seen = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.follower)
        os.close(self._leader)

    def _resize(self, terminal: int, rows: int, columns: int) -> None:
        self.size = rows, columns
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._resize(self._leader, rows, columns)

    def press(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def read(self) -> None:
        with contextlib.suppress(OSError):
            while select.select([self._leader], [], [], 0.05)[0]:
                self.seen += os.read(self._leader, 65_536).decode(errors="replace")

    def screen(self) -> list[str]:
        """The lines of the last whole frame: each begins at the upper left corner."""
        self.read()
        frames = self.seen.split("\x1b[H")
        last = frames[-1] if frames[-1].count("\n") >= self.size[0] - 1 or len(frames) < 3 else frames[-2]
        return [_STYLE.sub("", line).rstrip() for line in last.replace("\r", "").split("\n")]

    def wait_for(self, *words: str) -> list[str]:
        """The screen, once all these words stand on it."""
        try:
            wait_until(lambda: all(word in "\n".join(self.screen()) for word in words), "")
        except AssertionError:
            pytest.fail("\n".join((f"not there: {words}", *self.screen())))
        return self.screen()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def client(server: RedisServer, database: Database, environment: Callable[..., None]) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=server.url)
    with redis_client.Redis(port=server.port, password=server.password) as client, application(fault_app):
        yield client


def publish(folder: Path) -> str:
    """Queue a task that stays at work, however slow the machine is; its id."""
    folder.mkdir()
    fault_app.hold(folder)
    return str(fault_app.count.apply_async((TENANT, USER, str(folder), 1), queue="sync").id)


def plant(database: Database, client: redis_client.Redis) -> None:
    """An account that fails, and a worker with a hostile name that is down."""
    new = NewAccount("one", "one@example.org", "imap.gmail.com", 993, "tls", "one", "sample")
    account = add_account(TENANT, USER, new)
    with psycopg2.connect(libpq(database.owner_url)) as connection, connection.cursor() as cursor:
        failing = "paused_at = now(), failing_since = now(), last_error_code = 'authentication_failed'"
        cursor.execute(f"UPDATE email_client SET {failing} WHERE id = %s", [account])
    client.zadd(WORKERS, {SENT: time.time() - 30})


def test_the_screen_shows_what_goes_on_and_obeys_keys(
    client: redis_client.Redis, server: RedisServer, database: Database, tmp_path: Path
) -> None:
    plant(database, client)
    with Worker(tmp_path, concurrency=2, app=APP, queues="sync"), Terminal() as terminal:
        tasks = {publish(tmp_path / str(number)) for number in range(3)}
        screen = terminal.wait_for("workers: 1, busy: 2 of 2", "google authentication failed", "count")
        assert (len(screen), max(map(cell_len, screen))) <= (24, 80)
        assert re.search(r"^sync +1 +00:00:\d\d ", "\n".join(screen), re.MULTILINE), screen
        assert not {"\x07", "\x9b", "\u202e"} & {*terminal.seen}
        assert r"\x1b]0;owned" in "\n".join(screen)
        assert any("down" in line for line in screen)
        stops_a_task(terminal, client, tasks)
        stays_as_it_is_while_paused(terminal)
        terminal.resize(30, 120)
        wait_until(lambda: any(task in "\n".join(terminal.screen()) for task in tasks), "ids are not whole")
        assert max(map(cell_len, terminal.screen())) <= 120
        goes_on_without_a_server(terminal, server)
        terminal.press("q")
        wait_until(lambda: terminal.process.poll() is not None, "q does not quit")
        terminal.read()
        assert (terminal.process.returncode, terminal.seen.endswith("\x1b[?1049l\x1b[?25h")) == (0, True)
        assert termios.tcgetattr(terminal.follower)[3] & (termios.ECHO | termios.ICANON)


def stops_a_task(terminal: Terminal, client: redis_client.Redis, tasks: set[str]) -> None:
    terminal.press("r")
    terminal.wait_for("Choose a task first")
    terminal.press("\x1b[B")
    terminal.press("r")
    terminal.wait_for("Stop ", "y / n")
    terminal.press("n")
    terminal.wait_for("q quit")
    assert revocations(client) == []
    terminal.press("r")
    terminal.wait_for("y / n")
    terminal.press("y")
    terminal.wait_for("is revoked, and stopped where it runs")
    [revoked] = revocations(client)
    assert revoked.task_id in tasks


def stays_as_it_is_while_paused(terminal: Terminal) -> None:
    terminal.press("s")
    terminal.wait_for("sort: memory")
    terminal.press("p")
    terminal.wait_for("PAUSED", "p go on")
    terminal.press("p")
    terminal.wait_for("p pause")


def goes_on_without_a_server(terminal: Terminal, server: RedisServer) -> None:
    server.stop()
    screen = terminal.wait_for("cannot be reached", "as of ")
    assert any(line.startswith("sync") for line in screen)  # what it said last
    server.start()
    wait_until(lambda: "cannot be reached" not in "\n".join(terminal.screen()), "it does not go on")


def test_a_terminal_is_as_before_after_sigterm_and_without_one_an_error_says_so(
    client: redis_client.Redis, environment: Callable[..., None]
) -> None:
    environment(DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere")
    with Terminal() as terminal:
        terminal.wait_for("no worker has reported", "not known")
        status = Path(f"/proc/{terminal.process.pid}/status").read_text()
        ignored = int(re.search(r"SigIgn:\s*(\w+)", status)[1], 16)  # type: ignore[index]
        assert ignored >> signal.SIGTSTP - 1 & 1, "Ctrl-Z would leave the shell on the other screen"
        terminal.process.send_signal(signal.SIGTERM)
        wait_until(lambda: terminal.process.poll() is not None, "it does not end")
        terminal.read()
        assert (terminal.process.returncode, "\x1b[?1049l" in terminal.seen) == (143, True)
        assert termios.tcgetattr(terminal.follower)[3] & (termios.ECHO | termios.ICANON)
    command = [sys.executable, "-m", "manage", "top"]
    environment(METABUILDER_COMMAND="metabuilder")
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "top needs a terminal" in done.stderr
