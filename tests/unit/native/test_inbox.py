"""How the example application is started beside the stack."""

import json
import re
from pathlib import Path

import pytest

from native import inbox
from native.state import ROOT, State

PORTS = {"postgres": 5432, inbox.NAME: 8084}
NAME = re.compile(r"^[a-z0-9-]+", re.MULTILINE)


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.create()
    return state


def test_the_command_holds_no_secret_and_a_changed_environment_is_told(state: State) -> None:
    assert inbox.write_environment(state, PORTS) == [inbox.NAME]
    assert inbox.write_environment(state, PORTS) == []
    assert inbox.write_environment(state, {**PORTS, "postgres": 5433}) == [inbox.NAME]
    secrets = [line.partition("=")[2].strip("'") for line in state.secrets.read_text().splitlines()]
    command = " ".join(inbox.program(PORTS[inbox.NAME]).command)
    assert not [secret for secret in secrets if secret in command]


def test_it_gets_the_role_of_the_application_and_nothing_of_the_stack(state: State) -> None:
    inbox.write_environment(state, PORTS)
    environment = json.loads((state.folder / "inbox.json").read_text())
    assert environment["DATABASE_URL"].startswith("postgresql+psycopg2://metabuilder:")
    assert set(environment) == {"DATABASE_URL", "INBOX_TENANT", "INBOX_USER", "INBOX_PASSWORD"}
    assert not inbox.program(PORTS[inbox.NAME]).needs_environment


def test_a_database_of_others_is_not_shown() -> None:
    assert "DATABASE_URL" in inbox.lacking({"DATABASE_URL": "postgresql://u:secret@h/d"})[inbox.NAME]
    assert inbox.lacking({}) == {}


def test_the_stack_has_what_the_example_requires() -> None:
    wanted = set(NAME.findall((ROOT / "examples" / "inbox" / "requirements.txt").read_text()))
    assert "fastapi" in wanted
    assert wanted <= set(NAME.findall((ROOT / "requirements-native.txt").read_text()))
