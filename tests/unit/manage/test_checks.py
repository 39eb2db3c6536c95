"""`test`: all steps run, pytest last, and one failure is enough."""

import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner, Result

from manage import checks, cli


class Commands:
    """Stands in for subprocess.run and subprocess.Popen."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.ran: list[list[str]] = []
        self.environment: dict[str, str] = {}

    def run(self, command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        self.ran.append(command)
        self.environment = options.get("env", {})
        return subprocess.CompletedProcess(command, self._status(command), "", "no network")

    def start(self, command: list[str], **options: Any) -> MagicMock:
        self.ran.append(command)
        process = MagicMock(returncode=self._status(command))
        process.__enter__.return_value = process
        process.communicate.return_value = (f"{command[-1]} says this".encode(), None)
        return process

    def _status(self, command: list[str]) -> int:
        return int(any(word in " ".join(command) for word in self.failing))


def run(monkeypatch: pytest.MonkeyPatch, commands: Commands, *arguments: str) -> Result:
    monkeypatch.setattr(checks.subprocess, "run", commands.run)
    monkeypatch.setattr(checks.subprocess, "Popen", commands.start)
    return CliRunner().invoke(cli.main, ["test", *arguments])


@pytest.fixture(autouse=True)
def _packages_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "missing_packages", list)
    ansible_lint_says(monkeypatch, True, "")


def ansible_lint_says(monkeypatch: pytest.MonkeyPatch, is_well: bool, words: str) -> None:
    class Stub:
        def __init__(self, root: Path) -> None: ...

        def finish(self) -> tuple[bool, str]:
            return is_well, words

    monkeypatch.setattr(checks, "AnsibleLint", Stub)


def test_everything_runs_and_arguments_go_to_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    assert run(monkeypatch, commands, "-k", "parse", "-x").exit_code == 0
    assert [command[-1] for command in commands.ran[:2]] == ["check", "--check"]
    assert len(commands.ran) == 5
    assert commands.ran[-1][1:] == ["-m", "pytest", "-k", "parse", "-x"]


def test_all_tests_go_on_in_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    assert run(monkeypatch, commands).exit_code == 0
    assert commands.ran[-1][1:] == ["-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]


def test_the_quick_part_is_linters_unit_and_contract_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    assert run(monkeypatch, commands, "--quick", "-x").exit_code == 0
    assert len(commands.ran) == 5
    folders = [word for word in commands.ran[-1] if word.startswith("tests")]
    assert folders == ["tests/unit", "tests/contract"]
    assert "-x" in commands.ran[-1]


def test_modules_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    commands = Commands()
    run(monkeypatch, commands)
    assert "PATH" in commands.environment
    assert "PYTHONDONTWRITEBYTECODE" not in commands.environment


def test_what_a_linter_says_is_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, Commands("mypy"))
    said = [line for line in result.stderr.splitlines() if line]
    assert said[:4] == ["── ruff check", "check says this", "── ruff format --check", "--check says this"]
    assert said[-2:] == ["error: failed so far: mypy", "── pytest"]


@pytest.mark.parametrize("failing", ["mypy", "lint-imports", "pytest"])
def test_one_failure_fails_and_the_rest_still_runs(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    commands = Commands(failing)
    assert run(monkeypatch, commands).exit_code == 1
    assert len(commands.ran) == 5


def test_what_ansible_lint_finds_is_said_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    ansible_lint_says(monkeypatch, False, "risky-shell-pipe: roles/x")
    commands = Commands()
    result = run(monkeypatch, commands)
    assert result.exit_code == 1
    assert "risky-shell-pipe: roles/x" in result.stderr
    assert len(commands.ran) == 5


def test_an_ordinary_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "missing_packages", lambda: ["dovecot-imapd", "isync"])
    monkeypatch.setattr(checks.os, "geteuid", lambda: 1000)
    monkeypatch.delenv("CI", raising=False)
    result = run(monkeypatch, Commands())
    assert "apt-get install -y dovecot-imapd isync" in result.stderr
    assert result.exit_code == 0


def test_in_ci_a_missing_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "missing_packages", lambda: ["isync"])
    monkeypatch.setattr(checks.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("CI", "true")
    assert run(monkeypatch, Commands()).exit_code == 1


def test_root_installs_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([["isync"], []])
    monkeypatch.setattr(checks, "missing_packages", lambda: next(answers))
    monkeypatch.setattr(checks.os, "geteuid", lambda: 0)
    monkeypatch.setattr(checks.shutil, "which", lambda *_, **__: "/usr/bin/apt-get")
    commands = Commands()
    run(monkeypatch, commands)
    assert commands.ran[0] == ["apt-get", "-qq", "update"]
    assert commands.ran[1][-1] == "isync"
