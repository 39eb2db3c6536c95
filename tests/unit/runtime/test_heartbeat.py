"""Events of tasks: kept while Redis takes none, bounded, sent in one message, and without addresses."""

import time
from typing import Any

import pytest
from celery import Celery
from celery.events import dispatcher

from tasks.runtime.broker.transport import Transport
from tasks.runtime.heartbeat import Dispatcher


class Broker:
    """What dispatchers publish, or an error for each try."""

    def __init__(self) -> None:
        self.is_away = False
        self.published: list[Any] = []

    def publish(self, _dispatcher: Any, event: Any, _producer: Any, _routing_key: str, *_: Any, **__: Any) -> None:
        if self.is_away:
            raise OSError("away")
        self.published.append(event)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(
        dispatcher.EventDispatcher, "_publish", lambda *args, **options: broker.publish(*args, **options)
    )
    return broker


def made() -> Dispatcher:
    """A dispatcher as a worker's."""
    app = Celery(broker="memory://", set_as_current=False)
    return Dispatcher(app.connection(), hostname="worker@host", app=app, buffer_group=["task"])


def test_the_newest_are_sent_over_the_next_connection(broker: Broker) -> None:
    first = made()
    broker.is_away = True
    for number in range(3000):
        first.send("task-started", uuid=str(number))
    first.send("worker-heartbeat", freq=2)
    assert len(first.kept) <= 1001

    second = made()
    broker.is_away = False
    second.extend_buffer(first)
    second.send("worker-heartbeat", freq=2)
    heartbeat, kept = broker.published
    assert heartbeat["type"] == "worker-heartbeat"
    assert [event["uuid"] for event in kept][-1000:] == [str(number) for number in range(2000, 3000)]
    second.flush()
    assert len(broker.published) == 2


def test_words_of_servers_lose_their_addresses(broker: Broker) -> None:
    sender = made()
    sender.send("task-failed", uuid="1", exception="no ann@mail.example", traceback="ann@mail.example", result=5)
    sender.flush()
    [[event]] = broker.published
    assert (event["exception"], event["traceback"], event["result"]) == ("no …@mail.example", "…@mail.example", 5)


def test_a_silent_broker_is_not_asked_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event would wait for a time-out before the event loop can notice that the worker is cut off."""
    monkeypatch.setattr(Transport, "silent_at", time.monotonic())
    sender = made()
    sender.send("worker-heartbeat", freq=2)
    sender.send("task-started", uuid="1")
    sender.flush()
    assert broker.published == []
    assert [event["uuid"] for event in sender.kept] == ["1"]
