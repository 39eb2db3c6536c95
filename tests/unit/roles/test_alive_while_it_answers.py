"""roles/site/files/alive-while-it-answers: systemd hears that a unit is alive while its server answers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from native.ports import free_port
from tests.support.certificates import Authority
from tests.support.processes import kill_tree
from tests.support.service_manager import Manager
from tests.support.worker import wait_until

PROGRAM = Path(__file__).parents[3] / "roles/site/files/alive-while-it-answers"
SECONDS = 1.0  # the watchdog's time; a server is asked every sixth of that
HTTP = """
import sys
from http.server import HTTPServer, BaseHTTPRequestHandler
HTTPServer(("127.0.0.1", int(sys.argv[1])), BaseHTTPRequestHandler).serve_forever()
"""
TLS = """
import contextlib, socket, ssl, sys
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(*sys.argv[2:])
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
while True:
    accepted = server.accept()[0]
    with contextlib.suppress(OSError), context.wrap_socket(accepted, server_side=True) as connection:
        connection.unwrap()
"""


class Listener(Manager):
    """Counts how often it was told that the unit is alive."""

    signs = 0

    def _hear(self, line: str) -> None:
        self.signs += line == "WATCHDOG=1"

    def count(self) -> int:
        self._read()
        return self.signs


@contextmanager
def started(manager: Listener, where: str, *program: str) -> "Iterator[subprocess.Popen[bytes]]":
    """The program with what asks it; its process id is that of the program."""
    process = subprocess.Popen(
        [sys.executable, "-I", str(PROGRAM), where, *program],
        env={**os.environ, "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": str(int(SECONDS * 1_000_000))},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_tree(process)
        process.wait()
        manager.close()


@pytest.mark.parametrize("kind", ["http", "tls"])
def test_it_is_alive_while_it_answers(tmp_path: Path, kind: str) -> None:
    manager = Listener(tmp_path / "notify")
    if kind == "http":
        port = str(free_port())
        where, server = f"http:{port}", [sys.executable, "-c", HTTP, port]
    else:
        files = Authority(tmp_path).issue("own", "own.example")
        path = str(tmp_path / "alive")
        where, server = f"tls:{path}", [sys.executable, "-c", TLS, path, str(files.certificate), str(files.key)]
    with started(manager, where, *server) as process:
        wait_until(lambda: manager.count() > 1, "it is not said to be alive")

        process.send_signal(signal.SIGSTOP)
        answered = manager.count()
        time.sleep(2 * SECONDS)
        # At most of what it had answered before
        assert manager.count() <= answered + 1

        process.send_signal(signal.SIGCONT)
        wait_until(lambda: manager.count() > answered + 1, "it is not said to be alive again")
