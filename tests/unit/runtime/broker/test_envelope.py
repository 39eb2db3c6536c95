"""What a message says of the tasks that follow it, as Celery's canvas writes it. See test_hostile_messages.py."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import chain, group
from kombu.utils.json import dumps, loads

from tasks.celery_app import celery_app, check_spam, sync_emails
from tasks.errors import MessageUnreadableError
from tasks.runtime.broker.envelope import check_envelope, open_body

SYNC, CHECK = sync_emails.si("account", "tenant", "user"), check_spam.si("email", "tenant", "user")
LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize(
    ("canvas", "follows"),
    [
        (SYNC.clone().set(link=CHECK.clone().set(expires=LATER, countdown=5), link_error=CHECK), "callbacks"),
        (chain(SYNC, CHECK.clone().set(eta=LATER, expires=60.5, priority=3)), "chain"),
        (chain(SYNC, group(CHECK, SYNC), CHECK), "chain"),
        (chain(SYNC, chain(CHECK, SYNC) | CHECK), "chain"),
        (chain(SYNC, *[group(CHECK, SYNC), CHECK] * 4), "chain"),
        (chain(SYNC, *[CHECK] * 500), "chain"),
    ],
)
def test_what_the_canvas_writes_is_taken(
    monkeypatch: pytest.MonkeyPatch, environment: Callable[..., None], canvas: Any, follows: str
) -> None:
    environment(REDIS_URL="redis://127.0.0.1:1/0")
    sent: list[Any] = []
    monkeypatch.setattr(
        celery_app.amqp, "send_task_message", lambda producer, name, message, **_: sent.append(message)
    )

    canvas.apply_async()

    [message] = sent
    body = loads(dumps(message.body))
    assert body[2][follows]
    assert open_body(body)[0] == ["account", "tenant", "user"]


def test_how_deep_something_follows_ends_nothing() -> None:
    follower: dict[str, Any] = {"task": "test", "args": [], "kwargs": {}, "options": {}, "subtask_type": None}
    for _ in range(200):
        follower = {**follower, "options": {"link": [follower]}}
    with pytest.raises(MessageUnreadableError):
        open_body([[], {}, {"callbacks": [follower]}])


@pytest.mark.parametrize("part", ["headers", "properties", "other"])
@pytest.mark.parametrize("outer", [lambda inner: [inner], lambda inner: {"a": inner}])
@pytest.mark.parametrize("depth", [64, 480, 900, 60_000])
def test_a_message_nested_too_deep_is_none(part: str, outer: Callable[[object], object], depth: int) -> None:
    value: object = None
    for _ in range(depth):
        value = outer(value)
    with pytest.raises(MessageUnreadableError, match="nested more than 64 deep"):
        check_envelope({part: {"other": value}})
    with pytest.raises(MessageUnreadableError, match="nested more than 64 deep"):
        open_body([[value], {}, None])


def test_depth_that_programs_use_is_taken() -> None:
    value: object = None
    for _ in range(60):
        value = [value]
    assert open_body([[value], {}, None]) == ([value], {})
