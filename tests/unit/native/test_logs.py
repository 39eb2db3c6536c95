"""The end of the logs, and what follows."""

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from native.logs import Wanted, _Tail, show


def test_the_last_lines_of_each_with_the_name_in_front(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("1\n2\n3\n")
    (tmp_path / "beat.log").write_text("tick\n")
    out = io.StringIO()
    show(tmp_path, ["worker", "beat", "redis"], lines=2, follow=False, out=out)
    assert out.getvalue() == "worker | 2\nworker | 3\nbeat   | tick\n"


def test_one_log_has_no_name_in_front(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_bytes(b"caf\xe9\n")
    out = io.StringIO()
    show(tmp_path, ["worker"], lines=5, follow=False, out=out)
    assert out.getvalue() == "caf\ufffd\n"


def test_new_lines_are_printed_when_they_are_whole(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("old\n")
    out = io.StringIO()
    tail = _Tail(log, "")
    tail.print_end(0, out)
    with log.open("a") as file:
        file.write("new\nhal")
        file.flush()
        assert tail.print_new(out)
        assert not tail.print_new(out)
        file.write("f\n")
    assert tail.print_new(out)
    assert out.getvalue() == "new\nhalf\n"


def test_a_rotated_log_is_followed_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("a long line before the rotation\n")
    out = io.StringIO()
    tail = _Tail(log, "")
    tail.print_end(0, out)
    log.rename(tmp_path / "worker.log.1")
    assert not tail.print_new(out)
    log.write_text("after\n")
    tail.print_new(out)
    assert out.getvalue() == "after\n"


NOON = """\
2026-11-27 12:00:00,123 INFO spawned: 'worker' with pid 4
[2026-11-27 12:00:00,123: INFO/MainProcess] Task sync_emails received\ttask=sync_emails task_id=t1 tenant=x account=a
[2026-11-27 12:00:00,500: ERROR/ForkPoolWorker-1] failed: no account=b\ttask=sync_emails task_id=t1 account=a
    Traceback (most recent call last):
    ValueError: \\taccount=b
[2026-11-27 12:00:01,000: WARNING/ForkPoolWorker-1] words account=a task_id=t1
a line of a library
[2026-11-27 13:00:00,000: INFO/MainProcess] Task send_email received\ttask=send_email task_id="t 2" account=b
"""
# What other programs write at noon, and an hour later.
HOURS = {
    "redis": "12:M 27 Nov 2026 1{}:00:00.123 * Ready to accept connections",
    "postgres": "2026-11-27 1{}:00:00.123 UTC [12] LOG:  starting",
    "demo-imap": "Nov 27 1{}:00:00 imap-login: Info: Login",
}


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def printed(folder: Path, wanted: Wanted, *names: str, lines: int | None = None) -> list[str]:
    out = io.StringIO()
    is_any = show(folder, names, lines=lines, follow=False, wanted=wanted, out=out)
    assert is_any == (out.getvalue() != "")
    return out.getvalue().splitlines()


@pytest.mark.usefixtures("in_utc")
def test_lines_are_chosen_by_account_task_and_time(tmp_path: Path) -> None:
    lines = NOON.splitlines()
    (tmp_path / "worker.log").write_text(NOON)
    shown = [line.expandtabs() for line in lines]
    at_one = datetime(2026, 11, 27, 13, tzinfo=UTC)
    # With all the lines of an entry, and by its fields: never by what a server says.
    assert printed(tmp_path, Wanted(account="a"), "worker") == shown[1:5]
    assert printed(tmp_path, Wanted(account="a", task_id="t1"), "worker") == shown[1:5]
    assert printed(tmp_path, Wanted(account="a", task_id="t 2"), "worker") == []
    assert printed(tmp_path, Wanted(task_id="t 2"), "worker") == shown[7:]
    assert printed(tmp_path, Wanted(account="b"), "worker") == shown[7:]
    assert printed(tmp_path, Wanted(since=at_one), "worker") == shown[7:]
    assert printed(tmp_path, Wanted(since=at_one - timedelta(minutes=59, seconds=59)), "worker") == shown[5:]
    assert printed(tmp_path, Wanted(account="a"), "worker", lines=2) == shown[3:5]


@pytest.mark.usefixtures("in_utc")
@pytest.mark.parametrize("name", HOURS)
def test_the_time_of_each_programs_lines_is_read(tmp_path: Path, name: str) -> None:
    year = datetime.now(UTC).year
    noon, one = (HOURS[name].format(hour).replace("2026", str(year)) for hour in (2, 3))
    (tmp_path / f"{name}.log").write_text(f"a banner\n{noon}\n{one}\n\tof two lines\n")
    found = printed(tmp_path, Wanted(since=datetime(year, 11, 27, 12, 30, tzinfo=UTC)), name)
    assert found == [one, "\tof two lines".expandtabs()]


def test_chosen_lines_are_found_in_renamed_logs_and_followed(tmp_path: Path) -> None:
    """The supervisor renames worker.log to worker.log.1, and that to worker.log.2."""
    line = "[2026-11-27 12:00:0{0},000: INFO/MainProcess] {0}\taccount=a\n"
    for name, number in (("worker.log.2", 1), ("worker.log.1", 2), ("worker.log", 3)):
        (tmp_path / name).write_text(line.format(number) + line.format(number).replace("=a", "=b"))
    out = io.StringIO()
    tail = _Tail(tmp_path / "worker.log", "", Wanted(account="a"))
    tail.print_end(None, out)
    with (tmp_path / "worker.log").open("a") as log:
        log.write("    of another entry\n" + line.format(4) + "    and its end\n")
    tail.print_new(out)
    words = [shown.partition("] ")[2].split()[:1] or [shown] for shown in out.getvalue().splitlines()]
    assert words == [["1"], ["2"], ["3"], ["4"], ["    and its end"]]
