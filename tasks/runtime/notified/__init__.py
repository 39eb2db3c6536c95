"""What beat does as soon as PostgreSQL notifies it: a thread of its own, beside the schedule.

Every beat does it, and none leads: what is there to do is claimed in PostgreSQL by whoever comes first.

listener.py        the thread: it waits for notifications, and looks without one now and then
queued_tasks.py    publishes the tasks that the application queued in its own transaction
HANDLERS           which channel wakes what: a row for each
"""

from tasks.runtime.notified.listener import Handler
from tasks.runtime.notified.queued_tasks import publish_queued
from tasks.storage.queued_tasks import CHANNEL as QUEUED_TASK

# How often each looks without a notification.
_SWEEP_SECONDS = 5.0

HANDLERS: tuple[Handler, ...] = (Handler(QUEUED_TASK, publish_queued, _SWEEP_SECONDS),)
