"""Keeps secrets out of the logs of workers, beat and Flower,
whichever library writes a line: the last line of defence."""

import logging

from tasks.secrecy.secrets import SecretFilter

# Loggers that write two lines for each task, made only of redacted arguments (tasks/runtime/redaction.py). These
# lines are not searched, because there are so many.
_OURS_ALONE = ("celery.worker.strategy", "celery.app.trace")


class LogFilter(SecretFilter):
    """Searches all lines of a log for secrets, except the two that each task writes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line through; the text of a line that holds a secret is left out."""
        is_of_each_task = record.levelno <= logging.INFO and record.name in _OURS_ALONE
        return is_of_each_task or super().filter(record)
