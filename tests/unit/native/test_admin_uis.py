"""The admin pages of the native stack: what they need, and that none starts without a password."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from native import admin_uis, redis_commander
from native.redis import READER_RULES
from native.state import ROOT, State

FILES = ROOT / "roles" / "admin_uis" / "files"
NO_PASSWORD = 78


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.create()
    return state


def test_what_is_missing_is_said_with_the_command_that_installs_it(
    state: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = admin_uis.lacking({}, state)
    assert said[admin_uis.ADMINER].startswith("php is not installed. As root, run: apt-get install")
    assert said[admin_uis.REDIS_COMMANDER].startswith("node is not installed. As root, run: apt-get install")


def test_servers_of_others_are_not_shown(state: State) -> None:
    operator = {"DATABASE_URL": "postgresql://u:database-secret@h/d", "REDIS_URL": "redis://:redis-secret@h"}
    said = admin_uis.lacking(operator, state)
    assert "DATABASE_URL" in said[admin_uis.ADMINER]
    assert "REDIS_URL" in said[admin_uis.REDIS_COMMANDER]
    assert "secret" not in " ".join(said.values())


def test_npm_that_fails_leaves_nothing_and_is_quoted(
    state: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho half >node_modules\necho 'no such package' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = state.folder / "packages"
    with pytest.raises(admin_uis.StackError, match="no such package"):
        redis_commander.install(folder)
    assert not [path for path in state.folder.iterdir() if path.name.startswith("packages")]


def test_commands_hold_no_secret_and_a_changed_environment_is_told(state: State) -> None:
    ports = {"postgres": 5432, "redis": 6379, admin_uis.ADMINER: 8082, admin_uis.REDIS_COMMANDER: 8083}
    assert admin_uis.write_environments(state, ports) == [*admin_uis.NAMES]
    assert admin_uis.write_environments(state, ports) == []
    assert admin_uis.write_environments(state, {**ports, "redis": 6380}) == [admin_uis.REDIS_COMMANDER]
    secrets = [line.partition("=")[2].strip("'") for line in state.secrets.read_text().splitlines()]
    commands = json.dumps([program.command for program in admin_uis.programs(state, ports)])
    assert not [secret for secret in secrets if secret in commands]


@pytest.mark.parametrize("start", [["sh", "start-adminer", "1"], ["node", "start-redis-commander.js", ".", "1"]])
def test_neither_starts_without_a_password(start: list[str]) -> None:
    environment = {**os.environ, "ADMIN_UIS_USER": "admin", "ADMIN_UIS_PASSWORD": ""}
    done = subprocess.run(start, cwd=FILES, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == NO_PASSWORD, done.stderr
    assert "does not start without a password" in done.stderr


def test_redis_lets_redis_commander_do_the_same_as_on_hosts() -> None:
    defaults = yaml.safe_load((ROOT / "roles" / "redis" / "defaults" / "main.yml").read_text())
    assert defaults["redis_admin_uis_rules"] == READER_RULES


def test_every_package_is_locked_with_a_checksum() -> None:
    locked = json.loads((FILES / "redis-commander" / "package-lock.json").read_text())["packages"]
    packages = {name: package for name, package in locked.items() if name}
    assert len(packages) > 100
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []
