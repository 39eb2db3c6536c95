"""Functions that look at tasks refuse what is no identifier before they ask Redis."""

from collections.abc import Callable
from typing import Any

import pytest

from tasks.celery_app import get_active_tasks, get_task_status, revoke_task

NO_IDENTIFIERS = [
    5,
    1.5,
    True,
    b"id",
    ["id"],
    ("id",),
    {"id": 1},
    object(),
    "\ud800",
    "a\0b",
    "a\nb",
    "a" * 252,
]


@pytest.mark.parametrize("wrong", NO_IDENTIFIERS, ids=lambda wrong: ascii(wrong)[:20])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda wrong: get_task_status(wrong), "task_id"),
        (lambda wrong: get_task_status("id", tenant_id=wrong), "tenant_id"),
        (lambda wrong: get_task_status("id", tenant_id="t", user_id=wrong), "user_id"),
        (lambda wrong: revoke_task(wrong), "task_id"),
        (lambda wrong: revoke_task("id", tenant_id=wrong), "tenant_id"),
        (lambda wrong: get_active_tasks(tenant_id=wrong), "tenant_id"),
        (lambda wrong: get_active_tasks(tenant_id="t", user_id=wrong), "user_id"),
    ],
    ids=["status", "status-tenant", "status-user", "revoke", "revoke-tenant", "active-tenant", "active-user"],
)
def test_what_is_no_identifier_is_a_value_error(
    function: Callable[[Any], object], name: str, wrong: object, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL="redis://127.0.0.1:1/0")
    with pytest.raises(ValueError, match=name) as caught:
        function(wrong)
    assert len(str(caught.value)) < 200
