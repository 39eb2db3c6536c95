"""The log of workers, beat and Flower: one line for each event, with fields, and without secrets.

line.py      a record as a line: words, fields, invisible characters, addresses
tasks.py     the fields of a task's lines
journal.py   systemd's journal, which takes the fields as fields of its own
here         which of the two places the records of a process go to

So `journalctl METABUILDER_ACCOUNT=...` on a host and `./manage.sh logs --account ...` in the native stack find the
lines of an account, and `journalctl --unit celery-worker --priority warning` shows problems and nothing else.
"""

import logging
import os
from typing import Any

from celery.signals import after_setup_logger, after_setup_task_logger

from tasks.runtime.log import journal, tasks
from tasks.runtime.log.journal import Journal, JournalHandler, is_standard_error
from tasks.runtime.log.line import LineFormatter, describe
from tasks.secrecy.log_filter import LogFilter
from tasks.settings import get_settings

# Of a line that does not go to the journal, which keeps the time and the level itself.
_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"


def connect() -> None:
    """Have the log of Celery in this process written by this module."""
    after_setup_logger.connect(_take_over)
    after_setup_task_logger.connect(_take_over)
    tasks.connect()


def set_up(logger: logging.Logger, format_: str = _FORMAT) -> None:
    """Have the records of `logger` written to systemd's journal where standard
    error leads there, else by its own handlers in this format."""
    if is_standard_error(os.environ.get("JOURNAL_STREAM", "")):
        format_ = "%(message)s"
        logger.handlers = [JournalHandler(Journal(journal.SOCKET))]
    settings = get_settings()
    formatter, secrets = LineFormatter(format_, shows_addresses=settings.log.addresses), LogFilter(settings.secrets)
    for handler in logger.handlers:
        handler.setFormatter(formatter)
        handler.addFilter(describe)
        handler.addFilter(secrets)


def _take_over(logger: logging.Logger, **_: Any) -> None:
    set_up(logger)
