"""The application with one quick entry in its schedule, for tests of beat."""

import os
from datetime import timedelta

from tasks.celery_app import create_celery_app

app = create_celery_app()
app.conf.beat_schedule = {
    "probe": {
        "task": "celery.accumulate",
        "schedule": timedelta(seconds=float(os.environ["BEAT_TEST_SECONDS"])),
        "args": ("ok",),
        "options": {"queue": "sync"},
    }
}
