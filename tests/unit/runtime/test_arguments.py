"""Arguments that a task cannot be called with are refused where it is called."""

import inspect
import itertools
import math
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from kombu.utils.json import dumps

from tasks.celery_app import celery_app, check_spam, delete_emails, send_email, sync_emails
from tasks.registry import TASKS, TaskRow
from tasks.runtime.arguments import check_arguments
from tasks.runtime.redaction import redact_arguments

UNREACHABLE = "redis://127.0.0.1:1/0"
OWNER = {"tenant_id": "tenant", "user_id": "user"}
SYNC = {"email_client_id": "account", **OWNER}
SEND = {**SYNC, "to": "bob@example.net"}


@pytest.mark.parametrize(
    ("task", "kwargs", "where"),
    [
        (sync_emails, {**SYNC, "tenant_id": 5}, "tenant_id"),
        (sync_emails, {**SYNC, "tenant_id": ["tenant"]}, "tenant_id"),
        (sync_emails, {**SYNC, "user_id": {"a": 1}}, "user_id"),
        (sync_emails, {**SYNC, "email_client_id": None}, "email_client_id"),
        (sync_emails, {**SYNC, "email_client_id": b"account"}, "email_client_id"),
        (sync_emails, {**SYNC, "email_client_id": uuid.uuid4()}, "email_client_id"),
        (sync_emails, {**SYNC, "email_client_id": "a\0b"}, "email_client_id"),
        (sync_emails, {**SYNC, "email_client_id": "a\udce9"}, "email_client_id"),
        (sync_emails, {**SYNC, "email_client_id": "a" * 252}, "email_client_id"),
        (sync_emails, {**SYNC, "folder_id": 5}, "folder_id"),
        (sync_emails, {**SYNC, "force_full_sync": "yes"}, "force_full_sync"),
        (delete_emails, {**OWNER, "email_ids": "an id"}, "email_ids"),
        (delete_emails, {**OWNER, "email_ids": [1]}, "email_ids"),
        (delete_emails, {**OWNER, "email_ids": ["a", None]}, "email_ids"),
        (delete_emails, {**OWNER, "email_ids": ["a", "b\0"]}, "email_ids"),
        (delete_emails, {**OWNER, "email_ids": {"a"}}, "email_ids"),
        (delete_emails, {**OWNER, "email_ids": ["a"] * 100_001}, "email_ids"),
        (send_email, {**SEND, "attachment_ids": ("a",) * 100_001}, "attachment_ids"),
        (send_email, {**SEND, "to": ["bob@example.net"] * 100_001}, "to"),
        (send_email, {**SEND, "to": 5}, "to"),
        (send_email, {**SEND, "to": {"a": "b"}}, "to"),
        (send_email, {**SEND, "to": [["bob@example.net"]]}, "to"),
        (send_email, {**SEND, "cc": [5]}, "cc"),
        (send_email, {**SEND, "subject": 5}, "subject"),
        (send_email, {**SEND, "subject": "a\udce9"}, "subject"),
        (send_email, {**SEND, "body_text": b"bytes"}, "body_text"),
        (send_email, {**SEND, "body_html": ["a"]}, "body_html"),
        (send_email, {**SEND, "attachment_ids": "abc"}, "attachment_ids"),
        (send_email, {**SEND, "idempotency_key": "a\0b"}, "idempotency_key"),
        (send_email, {**SEND, "idempotency_key": "a\nb"}, "idempotency_key"),
        (send_email, {**SEND, "idempotency_key": 5}, "idempotency_key"),
        (send_email, {**SEND, "idempotency_key": "a" * 1_000_000}, "idempotency_key"),
        (check_spam, {**OWNER, "email_id": 1.5}, "email_id"),
    ],
)
def test_a_wrong_value_is_a_value_error(
    environment: Callable[..., None], task: Any, kwargs: dict[str, Any], where: str
) -> None:
    environment(REDIS_URL=UNREACHABLE)
    with pytest.raises(ValueError, match=where) as caught:
        task.apply_async((), kwargs)
    assert len(str(caught.value)) < 200  # nothing of the argument is repeated


@pytest.mark.parametrize(
    ("task", "args", "kwargs"),
    [
        (sync_emails, (), {**SYNC, "colour": "blue"}),
        (sync_emails, ("account",), SYNC),
        (sync_emails, ("account", "tenant", "user", None, False, "more"), {}),
        (sync_emails, (), OWNER),
        (send_email, ("account", "tenant", "user"), {}),
    ],
)
def test_wrong_names_and_numbers_of_arguments_are_a_type_error(
    environment: Callable[..., None], task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    environment(REDIS_URL=UNREACHABLE)
    with pytest.raises(TypeError):
        task.apply_async(args, kwargs)


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [
        (sync_emails, {**SYNC, "folder_id": None, "force_full_sync": True}),
        (delete_emails, {**OWNER, "email_ids": ("a", "b")}),
        (send_email, {**SEND, "to": ("a@b.example",), "subject": None, "body_text": "NUL \0, é, 🙂", "cc": []}),
    ],
)
def test_what_callers_give_today_is_taken(task: Any, kwargs: dict[str, Any]) -> None:
    task.check_arguments((), kwargs)


ODD_VALUES = [
    None, True, -1, 10**30, 1.5, math.nan, math.inf, "", "x" * 100_000, "\ud800", "a\0b", "a\r\nb\x1b", b"bytes", [],
    [None], ["\ud800"], [["x"]], [b"x"], ["x"] * 100_001, {"a": 1}, {1: 2}, {"x"}, ("x", 5), object(), uuid.uuid4(),
    Path("x"),
]  # fmt: skip


@pytest.mark.parametrize("row", TASKS, ids=lambda row: row.function)
def test_every_odd_value_of_every_argument_is_refused_or_can_be_queued(row: TaskRow) -> None:
    task = celery_app.tasks[row.name]
    parameters = inspect.signature(task.run).parameters
    needed = [name for name, one in parameters.items() if one.default is one.empty]
    good = {name: ["id"] if name.endswith("_ids") else "x" for name in needed}
    task.check_arguments((), good)
    for name, value in itertools.product(parameters, ODD_VALUES):
        kwargs = {**good, name: value}
        try:
            task.check_arguments((), kwargs)
        except ValueError:
            continue
        redact_arguments(task.run, (), kwargs)
        dumps(kwargs).encode()
        task.key((), kwargs, "id")


def task_of_each_kind(tenant_id: str, number: int, share: float = 0.5, names: list[str] | None = None) -> None:
    """No user's, with a number and a fraction."""


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        (("tenant", 1), {}, None),
        (("tenant", 1, 0.25, ["a" * 1000]), {}, None),
        (("t" * 251, 1), {"share": None}, None),
        (("tenant",), {}, TypeError),
        (("tenant", 1, 0.5, None, "more"), {}, TypeError),
        (("tenant", 1), {"number": 2}, TypeError),
        (("", 1), {}, ValueError),
        (("t" * 252, 1), {}, ValueError),
        (("tenant", None), {}, ValueError),
        (("tenant", "1"), {}, ValueError),
        (("tenant", True), {}, ValueError),
        (("tenant", 1.0), {}, ValueError),
        (("tenant", 1), {"share": "0.5"}, ValueError),
        (("tenant", 1), {"names": "a"}, ValueError),
        (("tenant", 1), {"names": ["a", 1]}, ValueError),
    ],
)
def test_arguments_are_held_against_the_function(
    args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception] | None
) -> None:
    with pytest.raises(error) if error else nullcontext():
        check_arguments("task", task_of_each_kind, args, kwargs)
