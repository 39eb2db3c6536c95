"""What all tasks have in common, without a broker."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import celery
import pytest

import tasks.celery_app as public
from tasks.celery_app import celery_app, create_celery_app, delete_emails, send_email, sync_emails
from tasks.errors import LoginRefusedError, StorageUnavailableError, TokenEndpointUnavailableError
from tasks.registry import QUEUES, TASKS, TaskRow
from tasks.runtime.task import EmailTask

UNREACHABLE = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("account", "", "user"), {}),
        (("account", "tenant", None), {}),
        (("account",), {"user_id": "user"}),
        ((), {"email_client_id": "account", "tenant_id": "tenant", "user_id": ""}),
    ],
)
def test_a_task_of_nobody_is_refused_before_it_is_queued(environment: Callable[..., None], args, kwargs) -> None:
    environment(REDIS_URL=UNREACHABLE)
    with pytest.raises(ValueError, match=r"needs a (tenant|user)_id"):
        sync_emails.apply_async(args, kwargs)
    with pytest.raises(ValueError, match=r"needs a (tenant|user)_id"):
        sync_emails(*args, **kwargs)


def test_every_name_that_callers_know_is_there() -> None:
    for name in public.__all__:
        assert hasattr(public, name), name
    assert (public.CELERY_DEFAULT_RETRY_DELAY, public.CELERY_RETRY_BACKOFF_BASE) == (5, 2)


def test_the_tasks_of_the_application_are_those_of_the_registry() -> None:
    ours = {name for name in celery_app.tasks if not name.startswith("celery.")}
    assert ours == {row.name for row in TASKS}
    assert all(name.startswith("email_service.tasks.") for name in ours)


@pytest.mark.parametrize("row", TASKS, ids=lambda row: row.function)
def test_a_row_of_the_registry_describes_its_task(row: TaskRow) -> None:
    task = getattr(public, row.function)
    assert (task.name, task.run.__module__) == (row.name, f"tasks.{row.module}")
    assert celery_app.conf.task_routes[row.name] == {"queue": row.queue}
    assert row.queue in QUEUES


def test_the_names_of_tasks_do_not_change() -> None:
    # They are on the queues and in the databases of every site.
    assert {row.function for row in TASKS} == {
        "ask_spam_engines", "check_spam", "cleanup_stale_results", "delete_emails", "deliver_webhooks", "empty_trash",
        "enforce_trash_retention", "periodic_sync", "queue_rereading", "queue_waiting_mail", "reread_messages",
        "send_email", "send_waiting", "sync_emails",
    }  # fmt: skip


def test_what_no_task_is_called_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no_such_task"):
        public.no_such_task  # noqa: B018


def test_the_schedule_names_tasks_that_exist() -> None:
    for entry in celery_app.conf.beat_schedule.values():
        assert entry["task"] in celery_app.tasks
        assert entry["options"]["expires"] == entry["schedule"].total_seconds()


def test_tasks_are_acknowledged_late_and_speak_json(environment: Callable[..., None]) -> None:
    environment(TASK_TIMEOUT="200", CELERY_TASK_SOFT_TIME_LIMIT="100")
    conf = create_celery_app().conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert (conf.task_serializer, conf.accept_content) == ("json", ["json"])
    assert (conf.task_time_limit, conf.task_soft_time_limit) == (200, 100)
    assert conf.broker_transport_options["visibility_timeout"] > conf.task_time_limit


def test_retries_wait_longer_and_longer_up_to_a_cap() -> None:
    for retries, longest in [(0, 10), (1, 20), (3, 80), (20, 600)]:
        sync_emails.push_request(retries=retries)
        delays = [sync_emails.retry_delay() for _ in range(50)]
        sync_emails.pop_request()
        assert longest / 2 <= min(delays)
        assert max(delays) <= longest
        assert len(set(delays)) > 1


def test_a_database_that_is_away_is_waited_for_in_short_steps_for_minutes_and_then_in_long_ones() -> None:
    away = StorageUnavailableError("away")
    short = [sync_emails._wait_seconds(waits, away) for waits in range(20)]
    assert max(short) <= 15
    assert 120 <= sum(short) <= 300
    assert sync_emails._wait_seconds(20, away) <= 10
    assert sync_emails._wait_seconds(30, away) >= 300


def test_who_says_when_to_come_back_is_not_asked_before_it() -> None:
    for retry_after, least, longest in [(None, 5, 10), (3, 5, 10), (120, 120, 120), (3600, 600, 600)]:
        sync_emails.push_request(retries=0)
        delays = [sync_emails.retry_delay(why=TokenEndpointUnavailableError("x", retry_after)) for _ in range(50)]
        sync_emails.pop_request()
        assert least <= min(delays)
        assert max(delays) <= longest


WORK = {
    "sync": (sync_emails, "tasks.sync.sync_account", ("account", "tenant", "user")),
    "send": (send_email, "tasks.send.send", ("account", "tenant", "user", "bob@example.net")),
    "delete": (delete_emails, "tasks.delete.delete_messages", (["message"], "tenant", "user")),
}


@pytest.mark.parametrize(("task", "work", "arguments"), WORK.values(), ids=WORK)
def test_a_task_comes_back_when_the_token_endpoint_says(
    monkeypatch: pytest.MonkeyPatch, task: EmailTask, work: str, arguments: tuple[object, ...]
) -> None:
    waits: list[float] = []

    def throttled(*_: object) -> None:
        raise TokenEndpointUnavailableError("slow down", 120)

    def retry(_: EmailTask, *, exc: Exception, countdown: float, **__: object) -> Exception:
        waits.append(countdown)
        return exc

    monkeypatch.setattr(work, throttled)
    monkeypatch.setattr(EmailTask, "retry", retry)
    with pytest.raises(TokenEndpointUnavailableError):
        task(*arguments)

    assert waits == [120]


@pytest.mark.parametrize("task", [send_email, delete_emails])
def test_a_login_that_is_not_due_wears_out_no_retries(monkeypatch: pytest.MonkeyPatch, task: EmailTask) -> None:
    published: list[dict[str, Any]] = []
    monkeypatch.setattr(celery.Task, "retry", lambda _, **options: published.append(options))
    task.push_request(retries=task.max_retries, called_directly=False, is_eager=False)
    try:
        task.retry(exc=LoginRefusedError("no", 300))
        assert task.request.retries == task.max_retries - 1
    finally:
        task.pop_request()
    assert 300 <= published[0]["countdown"] <= 600


def test_a_result_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import sync
    from tasks.engine.run import FolderTally, Tally
    from tasks.sync import _SoFar

    monkeypatch.setattr(sync, "database_now", lambda: datetime(2026, 7, 1, tzinfo=UTC))
    so_far = _SoFar(None, force_full_sync=True)
    so_far.tally = Tally({"INBOX": FolderTally(synced=3)}, {"Shared": "no"}, 2, 0.5, {"folder-1": 4000})

    handed_on = _SoFar(json.loads(json.dumps(so_far.options()["headers"]))["metabuilder_sync"], force_full_sync=True)

    assert handed_on.tally == so_far.tally
    assert handed_on.full_since == so_far.full_since
    result = json.loads(json.dumps(handed_on.result("partial")))
    assert (result["messages_synced"], result["messages_deleted"]) == (3, 2)


def test_a_task_touched_first_finds_the_whole_configuration() -> None:
    # In a process of its own: the configuration is read once, when it is first needed.
    script = (
        "from tasks.celery_app import sync_emails as task; "
        "print(task.app.conf.broker_url, task.track_started, task.acks_late, task.app.conf.task_routes[task.name])"
    )
    environment = {**os.environ, "REDIS_URL": "redis://sample:1234"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "redis://sample:1234/0 True True {'queue': 'sync'}"
