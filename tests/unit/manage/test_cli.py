"""The command line: what it lists, how it fails, how fast it starts."""

import os
import shlex
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


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a command line loads."""
    program = (
        "import sys; from manage.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print('LOADED', *sys.modules)"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED ")[2].split())


def test_help_is_quick_as_it_loads_nothing_slow() -> None:
    slow = {"amqp", "asyncio", "celery", "kombu", "pydantic", "redis", "rich", "sqlalchemy", "ssl", "supervisor"}
    assert slow & loaded_by("version", "--help") == set()


def leaves(group: click.Group, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += leaves(command, (*above, name)) if isinstance(command, click.Group) else [(*above, name)]
    return found


@pytest.mark.parametrize("words", leaves(cli.main), ids=" ".join)
def test_the_help_of_every_verb_has_an_example_and_the_exit_codes(words: tuple[str, ...]) -> None:
    shown = run("help", *words).output
    _, _, end = shown.partition("\n  Example:\n")
    examples, _, codes = end.partition("\n\n  Exit codes:\n")
    assert examples
    for example in examples.splitlines():
        program, *typed = shlex.split(example)
        assert (program, *typed[: len(words)]) == ("./manage.sh", *words)
        parse(typed)
    assert [line.split()[0] for line in codes.splitlines()] == ["0", "1", "2"]


def parse(arguments: list[str]) -> click.Context:
    """The context of the verb of a command line, which is not run. Raises UsageError where the line is wrong."""
    context = click.Context(cli.main)
    while isinstance(context.command, click.Group):
        name, found, arguments = context.command.resolve_command(context, arguments)
        assert found is not None
        if not isinstance(found, click.Group):
            return found.make_context(name, list(arguments), parent=context)
        context = click.Context(found, parent=context, info_name=name)
    return context


def test_a_mistyped_verb_gets_a_suggestion() -> None:
    assert "Did you mean one of: 'queue:flush', 'queue:list'" in run("queue:lst").stderr
    assert "Did you mean 'list'" in run("account", "lst").stderr
    assert "Did you mean" not in run("xyzzy").stderr


def test_a_verb_of_the_clone_says_on_a_host_where_it_is_and_what_to_do_there() -> None:
    here = {"METABUILDER_COMMAND": "metabuilder"}
    program = "import sys; from manage.cli import main; main(sys.argv[1:], prog_name='metabuilder')"
    for arguments, wanted in (
        (["rebuild"], ("works in a clone", "./manage.sh rebuild", "playbooks/deploy.yml")),
        (["help", "dev:logs"], ("works in a clone", "logs -f")),
        (["help", "logs"], ("journal", "--account")),
        (["--help"], ("queue:list", "metabuilder")),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT, env={**os.environ, **here}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert all(words in said for words in wanted), said
        assert done.returncode == (2 if "works in a clone" in wanted else 0)
        assert "./manage.sh up" not in said
