"""Entries for systemd's journal, as a socket of ours receives them."""

import array
import fcntl
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.log_fields import logged_with
from tasks.runtime.log.journal import Journal, JournalHandler, is_standard_error, unit_of
from tasks.runtime.log.line import LineFormatter, describe

_ROOT = Path(__file__).parents[4]
_RIGHTS = struct.calcsize("i")
_SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Receiver:
    """The journal's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.settimeout(5)

    def entry(self) -> dict[str, str]:
        """The next entry, read by the rules of the protocol."""
        data, rights, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(_RIGHTS))
        if rights:
            descriptor = array.array("i", rights[0][2])[0]
            assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALED == _SEALED
            data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            os.close(descriptor)
        fields: dict[str, str] = {}
        while data:
            head, _, data = data.partition(b"\n")
            name, equals, value = head.partition(b"=")
            if not equals:
                length = struct.unpack_from("<Q", data)[0]
                value, data = data[8 : 8 + length], data[8 + length + 1 :]
            fields[name.decode()] = value.decode()
        return fields

    def entries(self) -> list[dict[str, str]]:
        """All that have come."""
        self.socket.settimeout(0)
        found = []
        try:
            while True:
                found.append(self.entry())
        except BlockingIOError:
            return found
        finally:
            self.socket.settimeout(5)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    found = Receiver(tmp_path / "socket")
    yield found
    found.socket.close()


@pytest.fixture
def logger(receiver: Receiver) -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.journal")
    handler = JournalHandler(Journal(receiver.address))
    handler.setFormatter(LineFormatter("%(message)s", shows_addresses=False))
    handler.addFilter(describe)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers = []


def test_an_entry_has_its_fields(receiver: Receiver, logger: logging.Logger) -> None:
    with logged_with(task="sync_emails", account="a 1"):
        logger.warning("ann@mail.example said \x1b", extra={"uid": 5})
    entry = receiver.entry()
    assert int(entry.pop("CODE_LINE")) > 0
    assert entry.pop("SYSLOG_IDENTIFIER")
    assert entry == {
        "MESSAGE": '…@mail.example said \\x1b\ttask=sync_emails account="a 1" uid=5',
        "PRIORITY": "4",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_an_entry_has_its_fields",
        "LOGGER": "tests.journal",
        "METABUILDER_TASK": "sync_emails",
        "METABUILDER_ACCOUNT": "a 1",
        "METABUILDER_UID": "5",
    }


def test_a_traceback_and_a_long_line_are_one_entry_each(receiver: Receiver, logger: logging.Logger) -> None:
    try:
        raise ValueError("two\nlines\nMESSAGE=forged")
    except ValueError:
        logger.exception("it went wrong")
    logger.debug("x" * 1_000_000)
    first, second = receiver.entries()
    assert first["PRIORITY"] == "3"
    assert first["MESSAGE"].startswith("it went wrong\n    Traceback (most")
    assert first["MESSAGE"].endswith("\n    MESSAGE=forged")
    assert second["MESSAGE"] == "x" * 1_000_000


def test_a_journal_that_hangs_costs_a_moment_and_says_what_it_lost(
    receiver: Receiver, logger: logging.Logger
) -> None:
    began = time.monotonic()
    for number in range(5000):
        logger.info("line %s", number)
    assert time.monotonic() - began < 5  # a single wait, whatever it is that fills
    taken = receiver.entries()
    logger.info("after")
    after, lost = receiver.entries()
    assert [entry["MESSAGE"] for entry in taken] == [f"line {number}" for number in range(len(taken))]
    assert after["MESSAGE"] == "after"
    assert lost["METABUILDER_LOST"] == str(5000 - len(taken))
    assert lost["PRIORITY"] == "4"
    logger.info("and")
    assert [entry["MESSAGE"] for entry in receiver.entries()] == ["and"]


def test_a_burst_loses_nothing_while_the_journal_reads(receiver: Receiver, logger: logging.Logger) -> None:
    taken: list[dict[str, str]] = []

    def read() -> None:
        while len(taken) < 3000:
            taken.append(receiver.entry())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(3000):
        logger.info("line %s", number)
    reader.join(30)
    assert [entry["MESSAGE"] for entry in taken] == [f"line {number}" for number in range(3000)]


def test_a_journal_that_is_away_comes_back(receiver: Receiver, logger: logging.Logger) -> None:
    receiver.socket.close()
    logger.info("nobody listens")
    Path(receiver.address).unlink()
    logger.info("nobody is there")
    again = Receiver(Path(receiver.address))
    logger.info("back")
    assert [entry.get("METABUILDER_LOST", entry["MESSAGE"]) for entry in again.entries()] == ["back", "2"]
    again.socket.close()


_PROGRAM = """
import sys
from tasks.runtime.log import journal
journal.SOCKET = {address!r}
from tasks.celery_app import celery_app
celery_app.log.setup(loglevel='INFO', redirect_stdouts=False)
import logging
logging.getLogger('tasks.sync').warning('hello')
logging.getLogger('celery.task').warning('of a task')
"""


def test_a_process_under_systemd_writes_to_the_journal_and_another_does_not(
    tmp_path: Path, receiver: Receiver
) -> None:
    program = _PROGRAM.format(address=receiver.address)
    with (tmp_path / "log").open("wb") as log:
        seen = os.fstat(log.fileno())
        for stream in (f"{seen.st_dev}:{seen.st_ino}", "1:1"):
            environment = {**os.environ, "JOURNAL_STREAM": stream}
            subprocess.run([sys.executable, "-c", program], stderr=log, env=environment, cwd=_ROOT, check=True)
    assert [entry["MESSAGE"] for entry in receiver.entries()] == ["hello", "of a task"]
    words = [line.partition("] ")[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert words == ["hello", "of a task"]


def test_standard_error_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not is_standard_error("1:1")


@pytest.mark.parametrize(
    ("groups", "unit"),
    [
        ("0::/system.slice/celery-worker.service\n", "celery-worker"),
        ("0::/system.slice/system-celery.slice/celery-worker@bulk.service\n", "celery-worker@bulk"),
        ("12:pids:/a.service\n1:name=systemd:/payload/system.slice/celery-beat.service\n0::/\n", "celery-beat"),
        ("0::/machine.slice/host.service/payload/system.slice/celery-flower.service\n", "celery-flower"),
        ("0::/user.slice/user-1000.slice\n", None),
    ],
)
def test_the_identifier_is_the_name_of_the_unit(groups: str, unit: str | None) -> None:
    assert unit_of(groups) == unit
