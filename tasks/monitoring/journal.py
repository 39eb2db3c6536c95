"""Log lines for systemd's journal: each with its priority, none with the time, which the journal keeps itself.

So `journalctl --unit celery-worker --priority warning` shows what is wrong and nothing else.
"""

import logging
import os
import sys
from typing import Any

from celery.app.log import TaskFormatter
from celery.signals import after_setup_logger, after_setup_task_logger

_FORMAT = "%(processName)s: %(message)s"
_TASK_FORMAT = "%(task_name)s[%(task_id)s]: %(message)s"

# sd-daemon(3): the levels of syslog, from 0 for emergencies to 7 for debugging.
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class JournalFormatter(TaskFormatter):  # type: ignore[misc]  # celery has no types
    """Begins each line, those of a traceback too, with the record's priority."""

    def __init__(self, format_: str) -> None:
        super().__init__(format_, use_color=False)

    def format(self, record: logging.LogRecord) -> str:
        """The record as lines for the journal."""
        priority = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(f"{priority}{line}" for line in super().format(record).splitlines() or [""])


def connect() -> None:
    """Write for the journal, in a process whose errors go there."""
    if goes_to_journal(os.environ.get("JOURNAL_STREAM", "")):
        after_setup_logger.connect(_format_lines)
        after_setup_task_logger.connect(_format_task_lines)


def goes_to_journal(stream: str) -> bool:
    """Whether standard error is the stream that systemd names in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        seen = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # closed, captured, or not there at all
        return False
    return stream == f"{seen.st_dev}:{seen.st_ino}"


def _format_lines(logger: logging.Logger, **_: Any) -> None:
    _use(JournalFormatter(_FORMAT), logger)


def _format_task_lines(logger: logging.Logger, **_: Any) -> None:
    _use(JournalFormatter(_TASK_FORMAT), logger)


def _use(formatter: JournalFormatter, logger: logging.Logger) -> None:
    for handler in logger.handlers:
        handler.setFormatter(formatter)
