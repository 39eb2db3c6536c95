"""Beat's thread that PostgreSQL notifies, on a real server."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue

import pytest
from sqlalchemy import text

from tasks.celery_app import celery_app
from tasks.errors import StorageUnavailableError
from tasks.runtime.notified.listener import Handler, Listener
from tasks.storage.session import unbound_transaction
from tests.conftest import Database, as_superuser
from tests.support.worker import wait_until

# No test waits for so long: what a sweep would do comes by a notification.
NEVER = 3600.0


def notify(channel: str) -> None:
    with unbound_transaction() as connection:
        connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})


class Called:
    """A handler that says in a queue when it is called; `then` says what it does at each call."""

    def __init__(self, channel: str, then: Callable[[int], bool] = lambda _: False, sweep: float = NEVER) -> None:
        self.calls: Queue[int] = Queue()
        self._number = 0
        self._then = then
        self.row = Handler(channel, self._call, sweep)

    def _call(self, _: object) -> bool:
        self._number += 1
        self.calls.put(self._number)
        return self._then(self._number)

    def came(self) -> int:
        """The number of its next call."""
        return self.calls.get(timeout=90)


@contextmanager
def listening_for(*handlers: Called) -> Iterator[Listener]:
    listener = Listener(celery_app, [handler.row for handler in handlers])
    listener.start()
    try:
        yield listener
    finally:
        listener.stop()
        assert not listener.is_alive()


def fail_first(number: int) -> bool:
    if number == 1:
        raise StorageUnavailableError("away")
    return False


def fault_first(number: int) -> bool:
    if number == 1:
        raise KeyError("a fault")
    return False


def test_a_notification_wakes_the_handler_of_its_channel_alone(database: Database) -> None:
    one, other = Called("metabuilder_one"), Called("metabuilder_other")
    with listening_for(one, other):
        assert [one.came(), other.came()] == [1, 1]  # once without a notification, for what came before
        notify("metabuilder_one")
        assert one.came() == 2
        # Each in its turn: had the other one been called too, its call would be there by now.
        notify("metabuilder_one")
        assert one.came() == 3
        assert other.calls.empty()


@pytest.mark.parametrize("then", [fail_first, fault_first])
def test_a_handler_that_failed_is_called_again_and_keeps_nobody_from_work(
    database: Database, then: Callable[[int], bool]
) -> None:
    failing, other = Called("metabuilder_failing", then), Called("metabuilder_other")
    with listening_for(failing, other):
        assert [failing.came(), other.came()] == [1, 1]
        assert failing.came() == 2
        notify("metabuilder_failing")
        assert failing.came() == 3


def test_a_handler_with_more_to_do_is_called_again_at_once_and_without_news_by_the_sweep(database: Database) -> None:
    busy = Called("metabuilder_busy", lambda number: number < 3)
    swept = Called("metabuilder_swept", sweep=0.05)
    with listening_for(busy, swept):
        assert [busy.came() for _ in range(3)] == [1, 2, 3]
        assert [swept.came() for _ in range(3)] == [1, 2, 3]
        assert busy.calls.empty()


def test_it_goes_on_over_a_new_connection(database: Database) -> None:
    one = Called("metabuilder_one")
    with listening_for(one):
        assert one.came() == 1
        as_superuser(
            database.server,
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database.name}'",
        )
        assert one.came() == 2  # what was notified of meanwhile is not missed
        notify("metabuilder_one")
        assert one.came() == 3


def test_a_stop_waits_for_the_handler_at_work(database: Database) -> None:
    goes_on = threading.Event()
    one = Called("metabuilder_one", lambda _: goes_on.wait(90))
    with listening_for(one) as listener:
        assert one.came() == 1
        stopping = threading.Thread(target=listener.stop)
        stopping.start()
        goes_on.set()
        stopping.join()
        wait_until(lambda: not listener.is_alive(), "it goes on")
    assert one.calls.empty()
