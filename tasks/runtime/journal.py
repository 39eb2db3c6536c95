"""Formats log records: invisible characters in them are written out,
secrets are cut out, and lines for systemd's journal get a priority.

So the words of a server cannot forge a line of the log, and `journalctl --unit celery-worker --priority warning`
shows problems and nothing else.
"""

import logging
import os
import sys
from typing import Any

from celery.app.log import TaskFormatter
from celery.signals import after_setup_logger, after_setup_task_logger

from tasks.secrecy.log_filter import LogFilter
from tasks.secrecy.visible import VisibleFormatter
from tasks.settings import get_settings

# Without the time, which the journal keeps itself.
_FORMAT = "%(processName)s: %(message)s"
_TASK_FORMAT = "%(task_name)s[%(task_id)s]: %(message)s"

# sd-daemon(3): the levels of syslog, from 0 for emergencies to 7 for debugging.
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class LineFormatter(VisibleFormatter, TaskFormatter):  # type: ignore[misc]  # celery has no types
    """Adds the name and id of the task that a record belongs to."""

    def __init__(self, format_: str) -> None:
        TaskFormatter.__init__(self, format_, use_color=False)


class JournalFormatter(LineFormatter):
    """Begins each line with the record's priority."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as lines for the journal."""
        priority = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(f"{priority}{line}" for line in super().format(record).split("\n"))


def connect() -> None:
    """Have the log of Celery in this process formatted by this module."""
    after_setup_logger.connect(_format_lines)
    after_setup_task_logger.connect(_format_task_lines)


def set_up(logger: logging.Logger, elsewhere: str, journal: str = _FORMAT) -> None:
    """Format the records of `logger`: by `journal` where standard
    error goes to systemd's journal, else by `elsewhere`."""
    is_journal = goes_to_journal(os.environ.get("JOURNAL_STREAM", ""))
    formatter = JournalFormatter(journal) if is_journal else LineFormatter(elsewhere)
    secrets = LogFilter(get_settings().secrets)
    for handler in logger.handlers:
        handler.setFormatter(formatter)
        handler.addFilter(secrets)


def goes_to_journal(stream: str) -> bool:
    """Whether standard error is the stream that systemd names in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        seen = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # standard error is closed, captured, or missing
        return False
    return stream == f"{seen.st_dev}:{seen.st_ino}"


def _format_lines(logger: logging.Logger, format: str, **_: Any) -> None:  # noqa: A002 - Celery's name
    set_up(logger, format)


def _format_task_lines(logger: logging.Logger, format: str, **_: Any) -> None:  # noqa: A002 - Celery's name
    set_up(logger, format, _TASK_FORMAT)
