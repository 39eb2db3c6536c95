"""The application with the settings of a test, and what it puts into Redis."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from celery import Celery

from tasks.celery_app import celery_app, create_celery_app


@contextmanager
def application(module: ModuleType | None = None) -> Iterator[Celery]:
    """An application with the settings of this moment: the current application for the block, closed after it.

    With `module` it is the module's `app`. The module is loaded anew, as an application keeps to the Redis that it
    used first, which may have been that of another test.
    """
    app = importlib.reload(module).app if module else create_celery_app()
    app.set_current()
    try:
        yield app
    finally:
        app.close()
        celery_app.set_current()


class Broker:
    """What waits in Redis, and the application that puts it there."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def run(self, task: str, *args: object) -> Any:
        """Run a task as a worker does, in this process, and give its result."""
        return self.app.tasks[task].apply(args).result

    def taken(self, queue: str) -> list[list[Any]]:
        """The arguments of all messages of a queue, which is empty then; all of them expire."""
        found: list[list[Any]] = []
        with (
            self.app.connection_for_read() as connection,
            connection.SimpleQueue(queue) as messages,
            suppress(messages.Empty),
        ):
            while message := messages.get_nowait():
                message.ack()
                assert message.headers["expires"]
                found.append(message.payload[0])
        return found
