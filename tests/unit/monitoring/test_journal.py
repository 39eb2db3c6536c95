"""Lines for the journal."""

import logging
import os
import subprocess
import sys
from pathlib import Path

from tasks.monitoring.journal import JournalFormatter

_ROOT = Path(__file__).parents[3]


def record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("name", level, __file__, 1, message, None, None)


def test_every_line_has_its_priority() -> None:
    formatter = JournalFormatter("%(message)s")
    assert formatter.format(record(logging.ERROR, "one\ntwo")) == "<3>one\n<3>two"
    assert formatter.format(record(logging.WARNING, "")) == "<4>"


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
