"""Keeps secrets out of the logs of workers, beat and Flower, whoever writes them: the last line of defence."""

import logging

from tasks.secrecy.secrets import SecretFilter

# Two lines for each task, of nothing but what we give them (tasks/runtime/redaction.py): not looked at, for there are
# many.
_OURS_ALONE = ("celery.worker.strategy", "celery.app.trace")


class LogFilter(SecretFilter):
    """Looks at each line of a log but for those of every task."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line through, one that tells a secret without its words."""
        is_of_each_task = record.levelno <= logging.INFO and record.name in _OURS_ALONE
        return is_of_each_task or super().filter(record)
