"""Counting redeliveries, without a broker; with one: tests/integration/faults/test_poison.py."""

from collections.abc import Callable

from tasks import poison
from tasks.celery_app import create_celery_app


def test_without_a_broker_the_task_runs_uncounted(environment: Callable[..., None]) -> None:
    environment(REDIS_URL="redis://127.0.0.1:1/0")
    app = create_celery_app()
    app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0, "interval_step": 0}

    assert poison.begin(app, "key", "id", is_redelivered=True) == poison.History()
    poison.note_death(app, "key")
    poison.note_survival(app, "key", "id")
    poison.note_progress(app, "key")
    poison.forget(app, "key")
