"""Queues the delivery of webhooks as soon as events were written."""

from celery import Celery

from tasks.registry import DELIVER_WEBHOOKS, TASKS, WEBHOOKS_SECONDS
from tasks.runtime.broker.queues import lists
from tasks.runtime.broker.transport import broker_client
from tasks.storage.webhooks.rounds import count_webhooks

_QUEUE = next(row.queue for row in TASKS if row.name == DELIVER_WEBHOOKS)


def queue_delivery(app: Celery) -> bool:
    """Queue `deliver_webhooks`, unless there is no endpoint, or one waits in its queue already.

    One that runs already may have looked before the events were written. What is not delivered for another reason,
    the task that beat's schedule queues finds.
    """
    if not count_webhooks().enabled:
        return False
    with broker_client(app) as client:
        if any(client.exists(name) for name in lists(_QUEUE)):
            return False
    app.tasks[DELIVER_WEBHOOKS].apply_async(expires=WEBHOOKS_SECONDS)
    return False
