"""An application whose only task does nothing and has no result: what Celery alone takes for a message."""

import os

from celery import Celery

QUEUE = "empty"

# Not the current application of the process that asks for it: that one sends mail.
app = Celery("empty", broker=os.environ["REDIS_URL"], set_as_current=False)
app.conf.task_default_queue = QUEUE


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def nothing() -> None:
    """Do nothing."""
