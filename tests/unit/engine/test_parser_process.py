"""A process that parses: the rows that this process would make, and what happens when either of the two ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.engine import parser_process
from tasks.engine.parser_process import ParserProcess
from tasks.engine.parsing import Destination, to_rows
from tasks.mail.message import FetchedMessage
from tasks.mail.spam.evidence import Addressee
from tasks.storage.messages.arrivals import Arrival, Quarantined
from tests.support.forging import ForgingFlags
from tests.support.mailbox import message
from tests.support.worker import wait_until

DESTINATION = Destination("folder", "inbox", Addressee("ann@example.net"))
HOLD_ONE = """
from tests.unit.engine.test_parser_process import DESTINATION, ParserProcess
with ParserProcess(DESTINATION) as process:
    print(process.pid, flush=True)
    input()
"""


class _Deadly(tuple[str, ...]):
    """Flags that end the process that receives them."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


class _Endless(tuple[str, ...]):
    """Flags that keep the process that receives them busy."""

    def __reduce__(self) -> tuple[object, ...]:
        return time.sleep, (600,)


def fetched(uid: int, flags: tuple[str, ...] = ("\\Seen",)) -> FetchedMessage:
    raw = message(uid)
    return FetchedMessage(uid, flags, None, len(raw), raw)


@pytest.fixture
def process() -> Iterator[ParserProcess]:
    with ParserProcess(DESTINATION) as process:
        wait_until(lambda: process.is_ready, "the process does not start")
        yield process


def test_what_it_says_of_a_message_forges_no_line_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    with ParserProcess(DESTINATION) as process:
        wait_until(lambda: process.is_ready, "the process does not start")
        [made] = process.to_rows([fetched(1, ForgingFlags())])

    assert isinstance(made, Quarantined)
    first, *others = capfd.readouterr().err.strip("\n").split("\n")
    assert first == "parser failed"
    assert all(line.startswith("    ") for line in others)
    assert r"ValueError: \x1b[2J\x9b\u202e" in "\n".join(others)


def without_ids(item: Arrival | Quarantined) -> Arrival:
    assert isinstance(item, Arrival)
    # Rows begin with their id: a length and a UUID.
    return item._replace(id="", row=item.row[4 + 36 :])


def test_the_rows_are_those_that_this_process_makes(process: ParserProcess) -> None:
    messages = [fetched(uid) for uid in (1, 2, 3)]

    made = process.to_rows(messages)

    assert [without_ids(item) for item in made] == [without_ids(to_rows(DESTINATION, m)) for m in messages]


def test_a_message_that_ends_the_process_is_set_aside_and_the_others_are_not(process: ParserProcess) -> None:
    deadly = fetched(2, _Deadly())

    first, second, third = process.to_rows([fetched(1), deadly, fetched(3)])

    assert (first.uid, third.uid) == (1, 3)
    assert isinstance(first, Arrival)
    assert isinstance(third, Arrival)
    detail = "it ended the parser: exit status 9"
    assert second == Quarantined(2, "parser_failed", detail, deadly.size, deadly.raw)


def test_a_message_that_keeps_the_process_busy_is_set_aside_too(
    process: ParserProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser_process, "_PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(parser_process, "_END_SECONDS", 0.1)
    endless = fetched(2, _Endless())

    first, second = process.to_rows([fetched(1), endless])

    assert isinstance(first, Arrival)
    detail = "the parser did not come to an end with it in 2 s"
    assert second == Quarantined(2, "parser_failed", detail, endless.size, endless.raw)


def test_a_process_that_was_killed_costs_no_message(process: ParserProcess) -> None:
    os.kill(process.pid, signal.SIGKILL)

    assert [item.uid for item in process.to_rows([fetched(1), fetched(2)])] == [1, 2]


def test_whoever_stops_a_worker_does_not_stop_it_before_its_parent(process: ParserProcess) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(process.pid, number)
    pid = process.pid

    assert process.to_rows([fetched(1)])[0].uid == 1
    assert process.pid == pid


def test_it_gets_no_secret_and_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIAL_ENCRYPTION_KEY", "sample-key")

    with ParserProcess(DESTINATION) as process:
        wait_until(lambda: process.is_ready, "the process does not start")
        assert psutil.Process(process.pid).environ().keys() <= {"PYTHONUTF8", "LC_CTYPE"}
        assert not psutil.Process(process.pid).net_connections()


def test_it_ends_when_it_is_needed_no_more() -> None:
    with ParserProcess(DESTINATION) as process:
        pid = process.pid

    assert not psutil.pid_exists(pid)


def test_it_ends_with_a_parent_that_is_killed() -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", HOLD_ONE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "it lives on")


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent"])
def test_one_that_cannot_start_is_never_ready(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(parser_process, "_COMMAND", (program,))

    with ParserProcess(DESTINATION) as process:
        wait_until(lambda: not process.is_ready and process.has_failed, "it does not fail")
        assert not process.is_ready


def test_messages_are_parsed_here_where_it_cannot_start_again(
    process: ParserProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser_process, "_COMMAND", ("/bin/false",))
    os.kill(process.pid, signal.SIGKILL)

    assert [type(item) for item in process.to_rows([fetched(1), fetched(2)])] == [Arrival, Arrival]
    assert not process.is_ready
