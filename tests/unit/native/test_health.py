"""What `health` says of a configuration that has changed since the start."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from manage import cli
from native import environment, health
from native.check import Check
from native.health import configuration_is_valid, flower_answers
from native.state import State, write_json


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / ".env"
    given = environment.given
    monkeypatch.setattr(health, "given", lambda: given(path))
    monkeypatch.delenv("SYNC_BATCH_SIZE", raising=False)
    return path


def test_an_invalid_value_is_named_and_nothing_is_set(dotenv: Path) -> None:
    before = dict(os.environ)
    assert configuration_is_valid().ok
    dotenv.write_text("SYNC_BATCH_SIZE=lots\n")
    check = configuration_is_valid()
    assert not check.ok
    assert "SYNC_BATCH_SIZE" in check.detail
    assert dict(os.environ) == before


def test_a_file_that_cannot_be_read_is_reported(dotenv: Path) -> None:
    dotenv.write_text("garbage line here\n")
    assert "at line 1" in configuration_is_valid().detail


def test_the_file_is_asked_although_the_stack_runs_with_what_it_was(
    dotenv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path / "state")
    state.create()
    write_json(state.environment, {"SYNC_BATCH_SIZE": "7"})
    dotenv.write_text("SYNC_BATCH_SIZE=lots\n")
    monkeypatch.setenv("METABUILDER_STATE", str(state.folder))
    monkeypatch.setattr(health, "check_all", lambda state: [Check("redis", True, "answers")])
    monkeypatch.setattr(os, "environ", dict(os.environ))

    result = CliRunner().invoke(cli.main, ["health"])

    assert result.exit_code == 1
    assert "not ok" in result.stdout
    assert "SYNC_BATCH_SIZE" in result.stdout


def test_a_warning_is_shown_with_its_advice_and_is_no_failure(
    tmp_path: Path, dotenv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path / "state")
    state.create()
    write_json(state.environment, {"SYNC_BATCH_SIZE": "7"})
    monkeypatch.setenv("METABUILDER_STATE", str(state.folder))
    warning = Check("clocks", True, "the clock of A is off", "Synchronise it", warns=True)
    monkeypatch.setattr(health, "check_all", lambda state: [warning])
    monkeypatch.setattr(os, "environ", dict(os.environ))

    result = CliRunner().invoke(cli.main, ["health"])

    assert result.exit_code == 0
    assert "warning" in result.stdout
    assert "clocks: Synchronise it" in result.stderr


@pytest.mark.parametrize("open_path", ["/workers", "/metrics", "/healthcheck"])
def test_a_flower_that_shows_strangers_something_is_not_well(open_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Flower is by itself, without our door."""
    monkeypatch.setattr(health, "_status", lambda port, path, login: 200 if login or path == open_path else 401)
    check = flower_answers(5556)
    assert not check.ok
    assert f"{open_path} on port 5556 answers 200 without a password" in check.detail
