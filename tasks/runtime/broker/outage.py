"""An outage of the broker is a few lines of log, however long it lasts and however often it is tried to connect."""

import logging
import time
from collections import deque
from typing import Any

from celery.signals import after_setup_logger

# Those that speak of connections, and of nothing that a person would miss.
_LOGGERS = (
    "celery.worker.consumer.consumer",
    "celery.worker.consumer.connection",
    "kombu.transport.virtual.base",
    "tasks.runtime.broker.deliveries.outages",
    "tasks.runtime.consumer.outages",
)
_MOST, _SECONDS = 3, 60.0


class FewOfEach(logging.Filter):
    """Lets each kind of line pass so many times in so many seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[object, deque[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is to be said."""
        said, now = self._said.setdefault(record.msg, deque(maxlen=_MOST)), time.monotonic()
        if len(said) == _MOST and now - said[0] < _SECONDS:
            return False
        said.append(now)
        return True


def connect() -> None:
    """Have this process, if it becomes a worker, say little of an outage."""
    after_setup_logger.connect(_quieten)


def _quieten(**_: Any) -> None:
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(FewOfEach())
