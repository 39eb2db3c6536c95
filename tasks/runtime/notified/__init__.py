"""What beat does as soon as PostgreSQL notifies it: a thread of its own, beside the schedule.

Every beat does it, and none leads: what is there to do is claimed in PostgreSQL by whoever comes first.

listener.py        the thread: it waits for notifications, and looks without one now and then
queued_tasks.py    publishes the tasks that the application queued in its own transaction
webhooks.py        queues the delivery of webhooks
HANDLERS           which channel wakes what: a row for each
"""

from tasks.registry import WEBHOOKS_SECONDS
from tasks.runtime.notified.listener import Handler
from tasks.runtime.notified.queued_tasks import publish_queued
from tasks.runtime.notified.webhooks import queue_delivery
from tasks.storage.events import CHANNEL as EVENT
from tasks.storage.queued_tasks import CHANNEL as QUEUED_TASK

# How often tasks that were queued are looked for without a notification.
_SWEEP_SECONDS = 5.0

HANDLERS: tuple[Handler, ...] = (
    Handler(QUEUED_TASK, publish_queued, _SWEEP_SECONDS),
    Handler(EVENT, queue_delivery, float(WEBHOOKS_SECONDS)),
)
