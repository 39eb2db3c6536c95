"""Adds what a run of a task has counted (tasks/counting.py) to the counts of all workers (totals.py).

The process that runs the task tells its counts when the run ends. Counts that Redis does not take are lost.
"""

import logging
from typing import Any

from celery.signals import task_postrun, task_prerun

from tasks import counting
from tasks.monitoring import totals
from tasks.runtime.broker.transport import broker_client

_logger = logging.getLogger(__name__)


def connect() -> None:
    """Have the tasks of this process tell what they count."""
    task_prerun.connect(_begin)
    task_postrun.connect(_tell)


def _begin(**_: Any) -> None:
    counting.begin()


def _tell(task: Any, **_: Any) -> None:
    counts = counting.end()
    if not counts or task.request.is_eager:
        return
    try:
        with broker_client(task.app) as client:
            totals.add(client, counts)
    except Exception as error:  # of any kind: the task has ended, and its outcome stands
        _logger.warning("what this task counted is lost: %s: %s", type(error).__name__, error)
