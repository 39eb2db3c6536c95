"""Every verb with every odd value in each of its arguments and options ends in an exit code and a line, never in a
traceback."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from manage import cli, send, session
from tasks.storage.accounts.rows import NewAccount, add_account
from tests.conftest import MAIL_PASSWORD, TENANT, USER, Database
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.terminal import commands

ODD = {
    "bytes that are no UTF-8": "\udcff\udcfe",
    "a lone surrogate": "a\ud800",
    "a NUL": "a\0b",
    "control characters": "a\r\nb\x1b[2J\x9b",
    "empty": "",
    "very long": "x" * 100_000,
    "a long name of a file": "x" * 300,
    "signs of other languages": "%s {0} {x} %(x)s '; -- $(x) `x` [bold]",
    "a large number": "9" * 30,
    "digits of another script": "٣",
    "a path": "/proc/self/mem",
    "a version": "1.2.3/\u0660",
}
# With a value for each argument and option that a verb needs; {folder} is put in.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "account add": ("--email=a@example.org", "--hostname=mail.example", "--password-stdin"),
    "account all-mail": ("mail", "skip"),
    "account watch": ("mail", "off"),
    **dict.fromkeys(
        ("account audit", "account password", "account remove", "account show", "account test"), ("mail",)
    ),
    **dict.fromkeys(("dlq drop", "dlq retry", "dlq show"), ("no-letter",)),
    "event show": ("no-event",),
    "event replay": ("--since=2026-01-01",),
    "webhook add": ("https://app.example.org/webhooks",),
    **dict.fromkeys(("webhook show", "webhook test", "webhook rotate", "webhook remove"), ("no-webhook",)),
    **dict.fromkeys(("outbox show", "outbox retry", "outbox sent", "outbox resend"), ("no-message",)),
    **dict.fromkeys(("task:status", "task:retry", "worker:shutdown", "worker:ping", "worker:info"), ("nobody",)),
    "task:revoke": ("nobody", "--hours=1"),
    "task:run": ("check_spam",),
    **dict.fromkeys(("queue:list", "queue:flush"), ("spam",)),
    "completion": ("bash",),
    **dict.fromkeys(("preflight", "backup list", "backup now", "backup verify"), ("--inventory={folder}",)),
    **dict.fromkeys(("redis:status", "redis:switchover"), ("--inventory={folder}",)),
    "db:status": ("--inventory={folder}",),
    "db:switchover": ("--inventory={folder}", "--yes"),
    "db:rebuild": ("nobody", "--inventory={folder}", "--yes"),
    "redis-cli": ("PING",),
    "release build": ("--for=3.11.2/x86_64",),
    "secrets init": ("--inventory={folder}",),
    "secrets renew": ("--inventory={folder}", "redis_password"),
    "restore:settle": ("--yes", "--moment=2026-01-01"),
    "send": ("mail", "--to=a@example.org", "--text=x"),
    "sync": ("mail",),
}
# What these do with an argument they do on the machine, whatever the argument is; only an argument too many is tried.
NOT_TRIED = (
    *("demo", "up", "down", "restart", "rebuild", "setup", "test", "bench", "lock", "docs", "health", "ps"),
    *("psql", "dev:shell", "dev:logs", "dev:test"),
)


ON_STDIN = {
    "bytes that are no UTF-8": b"\xff\xfe\n",
    "a NUL": b"a\0b\n",
    "nothing": b"",
    "very long": b"x" * 100_000,
}
READ_STDIN = (
    (*["account", "add", "--email=a@example.org", "--hostname=mail.example", "--name=other", "--password-stdin"],),
    ("account", "password", "mail", "--password-stdin"),
    ("account", "password", "mail", "--smtp", "--password-stdin"),
    ("send", "mail", "--to=a@example.org"),
)


class Case(NamedTuple):
    """A command line, and what is odd about it."""

    what: str
    arguments: list[str]


def cases(folder: Path) -> Iterator[Case]:
    for name in sorted(commands()):
        words = name.split()
        if name not in ("test", "dev:test", "bench", "psql"):  # which take any
            yield Case(f"{name}: three arguments too many", [*words, *[ODD["control characters"]] * 3])
        for what, odd in ODD.items():
            if name not in NOT_TRIED:
                yield from _of_each_parameter(name, words, what, odd, folder)


def _of_each_parameter(name: str, words: list[str], what: str, odd: str, folder: Path) -> Iterator[Case]:
    needed = [argument.format(folder=folder) for argument in NEEDED.get(name, ())]
    places = [place for place, argument in enumerate(needed) if not argument.startswith("--")]
    for place in places:
        changed = [odd if number == place else argument for number, argument in enumerate(needed)]
        yield Case(f"{name}: argument {place} is {what}", [*words, *_safe(changed)])
    for option in _options(words):
        others = [argument for argument in needed if argument.partition("=")[0] != option]
        yield Case(f"{name}: {option} is {what}", [*words, *others, f"{option}={odd}"])


def _safe(arguments: list[str]) -> list[str]:
    """Options first, so that an odd argument is one even where it begins with a hyphen."""
    options = [argument for argument in arguments if argument.startswith("--")]
    return [*options, "--", *(argument for argument in arguments if not argument.startswith("--"))]


def _options(words: list[str]) -> Iterator[str]:
    command: click.Command = cli.main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.is_flag:
            yield parameter.opts[-1]


@pytest.fixture
def stack(
    database: Database,
    redis: RedisServer,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Path]:
    """PostgreSQL with an account whose server is away, and Redis. Gives an inventory."""
    environment(REDIS_URL=redis.url, METABUILDER_STATE=str(tmp_path / "state"), DATABASE_OWNER_URL=database.owner_url)
    monkeypatch.setattr(session, "IS_HOST", True)  # the environment is that of the test
    monkeypatch.setattr(send, "_PATIENCE_SECONDS", 0)
    add_account(TENANT, USER, NewAccount("mail", "ada@example.org", "127.0.0.1", 9, "none", "ada", MAIL_PASSWORD))
    monkeypatch.chdir(tmp_path)  # in which files would be written
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    (inventory / "hosts.yml").touch()
    with application():  # the application of this process keeps to the first Redis that it has seen
        yield inventory


def test_no_odd_argument_ends_in_a_traceback(stack: Path) -> None:
    tried = [(case, b"sample\nsample\n") for case in cases(stack)]
    for what, given in ON_STDIN.items():
        tried += [(Case(f"{words}: standard input is {what}", [*words]), given) for words in READ_STDIN]
    wrong = []
    for (what, arguments), given in tried:
        done = CliRunner().invoke(cli.main, arguments, input=given)
        if (
            "Traceback" in done.output
            or not isinstance(done.exception, SystemExit | None)
            or done.exit_code not in (0, 1, 2)
        ):
            wrong.append((what, repr(done.exception)[:300]))
    assert {path.name for path in stack.parent.iterdir()} <= {"inventory", "state"}
    assert not wrong, "\n".join(f"{what}: {error}" for what, error in wrong)
