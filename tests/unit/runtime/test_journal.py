"""Lines for the journal."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.runtime.journal import JournalFormatter, LineFormatter

_ROOT = Path(__file__).parents[3]


def record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("name", level, __file__, 1, message, None, None)


def test_every_line_has_its_priority() -> None:
    formatter = JournalFormatter("%(message)s")
    assert formatter.format(record(logging.ERROR, "one\ntwo")) == "<3>one\n<3>    two"
    assert formatter.format(record(logging.WARNING, "")) == "<4>"


FORGED = "<3>[2026-11-27 01:02:03,004: INFO/MainProcess] Task sync_emails succeeded"


@pytest.mark.parametrize("formatter", [JournalFormatter("%(message)s"), LineFormatter("[%(levelname)s] %(message)s")])
def test_no_server_forges_a_line(formatter: logging.Formatter) -> None:
    """By its words, by the exception that they are in, or by what led to that."""
    said = "NO \x1b[2J\x9b0m\u202e" + "".join(
        f"{end}{FORGED}" for end in ("\n", "\r\n", "\r", "\x85", "\u2028", "\x0b")
    )
    try:
        try:
            raise OSError(said)
        except OSError as error:
            raise ValueError(said) from error
    except ValueError:
        info = sys.exc_info()
    seen = logging.LogRecord("name", logging.ERROR, __file__, 1, "%s", (said,), info)

    text = formatter.format(seen)

    first, *others = text.split("\n")
    assert "NO \\x1b[2J\\x9b0m\\u202e" in first
    assert len(others) > 10
    assert all(line.removeprefix("<3>").startswith("    ") for line in others)
    assert not set(text) & {"\x1b", "\x9b", "\u202e", "\r", "\x85", "\u2028", "\x0b"}


def test_a_worker_under_systemd_writes_for_the_journal_and_one_elsewhere_does_not(tmp_path: Path) -> None:
    program = (
        "from tasks.celery_app import celery_app; celery_app.log.setup(loglevel='INFO', redirect_stdouts=False)\n"
        "import logging; logging.getLogger('tasks.sync').warning('hello')"
    )
    with (tmp_path / "log").open("wb") as log:
        seen = os.fstat(log.fileno())
        for stream in (f"{seen.st_dev}:{seen.st_ino}", "1:1"):
            environment = {**os.environ, "JOURNAL_STREAM": stream}
            subprocess.run([sys.executable, "-c", program], stderr=log, env=environment, cwd=_ROOT, check=True)
    ours, other = (tmp_path / "log").read_text().splitlines()
    assert ours == "<4>MainProcess: hello"
    assert other.endswith("WARNING/MainProcess] hello")
