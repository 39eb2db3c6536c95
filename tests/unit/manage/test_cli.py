"""The command line: what it lists, how it fails, how fast it starts."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner, Result

from manage import cli
from native.errors import StackError
from native.state import ROOT
from tasks.errors import AuthenticationFailedError, CredentialUnreadableError, NotFoundError

VERBS = (
    *("demo", "setup", "test", "bench", "up", "down", "restart", "ps", "logs", "health", "account", "sync"),
    *("version", "lock", "help"),
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


def test_help_lists_the_verbs() -> None:
    listed = run("help").output
    assert [verb for verb in VERBS if f"  {verb} " not in listed] == []
    assert run("--help").output == listed


@pytest.mark.parametrize(
    "verb",
    [
        *VERBS,
        "account add",
        "account list",
        "account show",
        "account audit",
        "account password",
        "account remove",
    ],
)
def test_every_verb_explains_itself(verb: str) -> None:
    result = run(*verb.split(), "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 1


def test_help_of_one_verb() -> None:
    assert "--purge" in run("help", "down").output
    assert run("help", "nonsense").exit_code == 2


@pytest.mark.parametrize("wrong", [["nonsense"], ["logs", "nonsense"], ["sync"], ["bench", "nonsense"]])
def test_a_wrong_command_line_is_exit_code_2(wrong: list[str]) -> None:
    assert run(*wrong).exit_code == 2


@pytest.mark.parametrize("error", [StackError("PostgreSQL is down:\n see logs"), NotFoundError("account demo")])
def test_an_expected_error_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    result = failing_with(error, monkeypatch)
    assert result.exit_code == 1
    assert result.stderr == f"error: {' '.join(str(error).split())}\n"


@pytest.mark.parametrize("error", [AuthenticationFailedError("NO"), CredentialUnreadableError()])
def test_a_password_that_does_not_work_can_be_changed(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    said = failing_with(error, monkeypatch).stderr
    assert "./manage.sh account password" in said
    assert said.count("\n") == 1


def test_a_bug_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(failing_with(ZeroDivisionError(), monkeypatch).exception, ZeroDivisionError)


def failing_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Result:
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setitem(cli.main.commands, "fail", fail)
    return run("fail")


def test_versions_for_machines() -> None:
    assert '"celery": "5.' in run("version", "--json").output


def test_starting_imports_nothing_slow() -> None:
    program = (
        "import manage.cli, sys; print([m for m in ('celery', 'rich', 'sqlalchemy', 'redis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
