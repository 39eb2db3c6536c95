"""Limits what is logged about an outage of the broker to a few lines, however long the outage lasts."""

import logging
import time
from collections import deque
from typing import Any

from celery.signals import after_setup_logger

# Loggers that write only about connections and refused commands: nothing is lost if some of their lines are left out.
_LOGGERS = (
    "celery.worker.consumer.consumer",
    "celery.worker.consumer.connection",
    "kombu.transport.virtual.base",
    "tasks.runtime.broker.deliveries.outages",
    "tasks.runtime.commands",
    "tasks.runtime.consumer.outages",
)
_MOST, _SECONDS = 3, 60.0


class FewOfEach(logging.Filter):
    """Lets each kind of line through only a few times within some minutes."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[object, deque[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        said, now = self._said.setdefault(record.msg, deque(maxlen=_MOST)), time.monotonic()
        if len(said) == _MOST and now - said[0] < _SECONDS:
            return False
        said.append(now)
        return True


def connect() -> None:
    """Install the filter in this process when it becomes a worker."""
    after_setup_logger.connect(_quieten)


def _quieten(**_: Any) -> None:
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(FewOfEach())
