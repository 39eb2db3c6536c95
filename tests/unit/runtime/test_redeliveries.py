"""Counting redeliveries, without a broker; with one: tests/integration/faults/test_poison.py."""

from collections.abc import Callable

from tasks.celery_app import create_celery_app
from tasks.runtime import redeliveries


def test_without_a_broker_the_task_runs_uncounted(environment: Callable[..., None]) -> None:
    environment(REDIS_URL="redis://127.0.0.1:1/0")
    app = create_celery_app()
    app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0, "interval_step": 0}

    assert redeliveries.begin(app, "key", "id", is_redelivered=True) == redeliveries.History()
    redeliveries.note_dead_letter(app, "key")
    redeliveries.note_survival(app, "key", "id")
    redeliveries.note_progress(app, "key")
    redeliveries.forget(app, "key")
