"""What is said of a sync."""

from types import SimpleNamespace
from typing import Any

import pytest

from manage import progress
from manage.advice import explained
from manage.progress import summarise, watch
from native.errors import StackError
from tasks.errors import AuthenticationFailedError

ACCOUNT: Any = SimpleNamespace(account_name="demo")
RESULT = {
    "status": "success",
    "messages_synced": 3,
    "messages_updated": 1,
    "messages_deleted": 0,
    "messages_quarantined": 2,
    "sync_duration_seconds": 1.5,
    "failed_folders": {},
}
PROGRESS = {"folder": "INBOX", "folders_done": 1, "folders_total": 3, "messages_done": 5, "messages_total": 9}


def test_what_was_done() -> None:
    assert summarise(ACCOUNT, RESULT) == "Synced demo in 1.50 s: 3 new, 1 changed, 2 kept aside, unreadable"


def test_nothing_new() -> None:
    nothing = {**RESULT, **{name: 0 for name in RESULT if name.startswith("messages_")}}
    assert summarise(ACCOUNT, nothing).startswith("Nothing new")


def test_another_sync_at_work() -> None:
    assert "Another sync" in summarise(ACCOUNT, {**RESULT, "status": "already_running"})


def test_folders_that_failed_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    summarise(ACCOUNT, {**RESULT, "failed_folders": {"Projects": "NO such folder"}})
    assert "Projects could not be synced: NO such folder" in capsys.readouterr().err


def test_folders_that_are_not_complete_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    summarise(ACCOUNT, {**RESULT, "incomplete_folders": {"INBOX": "2 of 3 missing: why"}})
    assert "INBOX is not complete: 2 of 3 missing: why" in capsys.readouterr().err


def answers(monkeypatch: pytest.MonkeyPatch, *states: tuple[str, Any]) -> None:
    following = iter(states)
    monkeypatch.setattr(progress, "_ask", lambda task_id: next(following))
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0)


def test_it_watches_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [
        ("PENDING", None),
        ("STARTED", {"pid": 1}),
        ("PROGRESS", PROGRESS),
        ("RETRY", "busy"),
        ("SUCCESS", RESULT),
    ]
    answers(monkeypatch, *states)
    assert watch("id") == RESULT


def test_a_retry_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers(monkeypatch, ("RETRY", "server busy"), ("RETRY", "server busy"), ("SUCCESS", RESULT))
    watch("id", quiet=True)
    assert capsys.readouterr().err.count("server busy") == 1


def test_a_retry_without_a_reason_waits_for_another_sync(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, ("RETRY", None), ("SUCCESS", RESULT))
    watch("id", quiet=True)
    assert capsys.readouterr().err == "Another sync of this account is at work; waiting\n"


def test_a_wrong_password_is_followed_by_the_verb_that_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, ("FAILURE", AuthenticationFailedError("NO")))
    with pytest.raises(StackError) as failed:
        watch("id")
    assert "./manage.sh account password mail." in explained(failed.value, "mail")


def test_a_failure_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, ("FAILURE", "wrong password"))
    with pytest.raises(StackError, match="wrong password"):
        watch("id")
