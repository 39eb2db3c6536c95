"""The application with the settings of a test."""

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery

from tasks.celery_app import celery_app, create_celery_app


@contextmanager
def application(app: Celery | None = None) -> Iterator[Celery]:
    """`app`, or one with the settings of this moment: the current one for the block, closed after it."""
    app = app or create_celery_app()
    app.set_current()
    try:
        yield app
    finally:
        app.close()
        celery_app.set_current()
