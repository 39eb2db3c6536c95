"""Verbs that a host of the workers runs for ./manage.sh -i INVENTORY, as `metabuilder`.

Redis and PostgreSQL tell each worker's host the same, so the first one that can be reached answers for the site.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import click

from manage import site
from manage.output import Coloured, confirm, print_json, say, tell, tell_lines
from manage.site import Answer, Site
from manage.stdin import read_text
from native.errors import StackError

PROGRAM = "/usr/local/bin/metabuilder"
# Verbs about the release of a host, which each one answers.
_OF_EACH_HOST = ("version",)
# Without arguments these take commands from a terminal. They and `send` read standard input.
_CONVERSATIONS = ("psql", "redis-cli")
_READERS = (*_CONVERSATIONS, "send")
_GIVEN = "metabuilder.given"
# Verbs that ask for some of their arguments alone: whether they do for these.
_ASKS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "task:revoke": lambda given: bool(given["name"]) and not given["lift"],
    "account all-mail": lambda given: given["choice"] == "skip",
}


def passed_on(command: click.Command) -> click.Command:
    """The verb, or group of verbs, with the same arguments and help, that runs on a host of the site."""
    if isinstance(command, click.Group):
        inner = {name: passed_on(verb) for name, verb in command.commands.items()}
        return click.Group(command.name, commands=inner, help=command.help, epilog=command.epilog)
    return _PassedOn(
        command.name,
        params=command.params,
        help=command.help,
        epilog=command.epilog,
        context_settings=command.context_settings,
    )


class _PassedOn(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse here what the host would refuse."""
        ctx.meta[_GIVEN] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        place = site.here()
        assert place is not None
        words, given = _words(ctx), ctx.meta[_GIVEN]
        asks = _ASKS.get(" ".join(words))
        if ctx.params.get("yes") is False and (asks is None or asks(ctx.params)):
            verb = " ".join((*words, *given))
            confirm(f"{verb}, on {', '.join(place.inventories)}: without further questions?")
            given = ["--yes", *given]
        is_typed = sys.stdin.isatty()
        if words == ["top"]:
            raise StackError("top needs a terminal on its host: ssh -t HOST metabuilder top")
        if is_typed and words[0] in _CONVERSATIONS and not given:
            raise StackError(f"{words[0]} without a command is a conversation: ssh -t HOST metabuilder {words[0]}")
        reads = not is_typed and (words[0] in _READERS or ctx.params.get("password_stdin"))
        answers = _ask(place, (PROGRAM, *words, *given), read_text() if reads else "", words[0] in _OF_EACH_HOST)
        _show(answers, as_json=bool(ctx.params.get("as_json")))
        sys.exit(max(abs(answer.exit_code) for answer in answers))


def _words(ctx: click.Context) -> list[str]:
    words: list[str] = []
    while ctx.parent:
        words.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    return words


def _ask(place: Site, argv: Sequence[str], stdin: str, of_each: bool) -> list[Answer]:
    hosts = place.hosts(site.WORKERS)
    if of_each:
        return place.run(hosts, argv, stdin)
    away = []
    for host in hosts:
        [answer] = place.run([host], argv, stdin)
        if not answer.is_away:
            return [answer]
        say(f"{host}: {answer.said}")
        away.append(host)
    raise StackError(f"no host of {site.WORKERS} can be reached: {', '.join(away)}")


def _show(answers: Sequence[Answer], *, as_json: bool) -> None:
    found: dict[str, Any] = {}
    for answer in answers:
        if as_json:
            found[answer.host] = None
            with suppress(ValueError):
                found[answer.host] = json.loads(answer.out)
        else:
            tell(Coloured(f"{answer.host}:", "cyan"))
            if answer.out.strip():
                tell_lines(answer.out.strip("\n"))
        for line in answer.said.strip().splitlines():
            say(f"{answer.host}: {line}" if as_json else line)
    if as_json:
        print_json(found)
