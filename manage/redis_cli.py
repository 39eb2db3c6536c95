"""`redis-cli`: commands for the Redis of the workers, with the right server, TLS and password.

The commands go through the Redis library of the workers, as hosts of workers have no program `redis-cli`. Without
`--write` only commands pass that read, by what Redis itself says of each command (COMMAND INFO).
"""

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import click

from manage.examples import example
from manage.output import complain, say, tell
from manage.session import broker_alone, results_alone

# They read, although Redis counts them among the commands of administrators or of connections.
_LOOKING = frozenset(
    {
        *("ping", "echo", "time", "info", "role", "lastsave", "command|info", "command|docs", "acl|whoami"),
        *("client|list", "client|info", "client|id", "slowlog|get", "slowlog|len", "latency|latest"),
        *("latency|history", "latency|doctor", "memory|stats", "memory|doctor", "pubsub|channels"),
        *("pubsub|numpat", "pubsub|numsub"),
    }
)


@example("redis-cli LLEN sync", "redis-cli --results GET celery-task-meta-ID", "redis-cli < commands.txt")
@click.command(name="redis-cli", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--write", is_flag=True, help="All commands, also those that change something or make Redis wait.")
@click.option("--results", is_flag=True, help="The Redis of the results instead of the broker's.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def redis_cli(write: bool, results: bool, command: tuple[str, ...]) -> None:
    """Run a Redis command; without a command, one for each line of standard input.

    Only commands that read are run, unless `--write` is given. Answers are printed as by Redis's own redis-cli.
    """
    with results_alone() if results else broker_alone() as client:
        client.response_callbacks.clear()  # answers are to be shown as Redis gave them
        if command:
            sys.exit(0 if _run(client, command, write=write) else 1)
        is_typed = sys.stdin.isatty()
        lines = _typed() if is_typed else sys.stdin
        were_good = [_run(client, words, write=write) for words in _commands(lines)]
    sys.exit(0 if is_typed or all(were_good) else 1)


def _typed() -> Iterator[str]:
    """Lines as they are typed, until Ctrl-D."""
    import readline  # noqa: F401 - gives input() a history

    with suppress(EOFError):
        while True:
            yield input("redis> ")


def _commands(lines: Iterable[str]) -> Iterator[list[str]]:
    """The words of each line that has some."""
    for line in lines:
        try:
            words = shlex.split(line)
        except ValueError as error:
            complain(f"{line.strip()}: {error}")
            continue
        if words:
            yield words


def _run(client: Any, command: Sequence[str], *, write: bool) -> bool:
    """Run a command and print its answer. Returns whether Redis took the command."""
    from redis import ResponseError

    try:
        if not write and not _only_reads(client, command):
            complain(f"{command[0]} may change something or keep Redis busy, so it is run with --write only")
            return False
        answer = client.execute_command(*command)
    except ResponseError as error:
        complain(f"Redis refuses {command[0]}: {error}")
        return False
    for line in _shown(answer):
        tell(line)
    return True


def _only_reads(client: Any, command: Sequence[str]) -> bool:
    name = command[0].lower()
    [found] = client.execute_command("COMMAND", "INFO", name)
    if found is None:
        say(f"Redis does not know the command {command[0]}")
        return False
    if found[9]:  # a container of commands, such as CLIENT
        name = f"{name}|{command[1].lower()}" if len(command) > 1 else name
        found = next((inner for inner in found[9] if inner[0].decode().lower() == name), found)
    categories = set(found[6])
    return name in _LOOKING or (b"@read" in categories and not categories & {b"@write", b"@dangerous"})


def _shown(answer: Any, before: str = "") -> Iterator[str]:
    """The lines that show an answer, as redis-cli writes them: its kind, and lists numbered."""
    if isinstance(answer, list) and answer:
        width = len(str(len(answer)))
        for number, item in enumerate(answer, 1):
            lead = f"{number:>{width}}) "
            yield from _shown(item, (before if number == 1 else " " * len(before)) + lead)
        return
    yield before + _scalar(answer)


def _scalar(answer: Any) -> str:
    if answer is None:
        return "(nil)"
    if isinstance(answer, int):
        return f"(integer) {answer}"
    if isinstance(answer, list):
        return "(empty array)"
    if isinstance(answer, Exception):
        return f"(error) {answer}"
    return f'"{answer.decode(errors="backslashreplace")}"'
