"""The units of a host, or of all hosts of a site: `up`, `down`, `restart`, `ps`, `logs`, by systemd and its journal.

On a host these verbs are about that host, with ./manage.sh -i INVENTORY about each host.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from manage import on_host, site
from manage.examples import example
from manage.log_options import LINES, log_options, say_no_line
from manage.output import Coloured, complain, duration, print_json, say, size, table, tell_lines
from manage.session import json_option
from manage.site import Answer
from native.errors import StackError
from tasks.log_fields import Field

_PYTHON = "/usr/bin/python3"
_COLOURS = {"active": "green", "activating": "yellow", "deactivating": "yellow", "reloading": "yellow"}
# The beginning of an entry, after which its further lines follow: the moment, and the name of the host.
_ENTRY = re.compile(r"\d{4}-\d\d-\d\dT\S+ ")

service_argument = click.argument("service", required=False, type=click.Choice(on_host.OURS))


def ask(*words: str, hosts: Sequence[str] | None = None) -> list[Answer]:
    """Run manage/on_host.py on this host, or on those of the site."""
    place = site.here()
    program = Path(on_host.__file__)
    if place is None:
        done = subprocess.run([sys.executable, str(program), *words], capture_output=True, text=True, check=False)
        return [Answer("this host", done.returncode, done.stdout, done.stderr)]
    return place.run(hosts or place.hosts(*site.GROUPS), (_PYTHON, "-", *words), program.read_text())


def finish(answers: Sequence[Answer]) -> None:
    """Complain of what the hosts complained of, and end with the worst of their exit codes."""
    for answer in answers:
        if answer.exit_code or answer.said:
            complain(f"{answer.host}: {answer.said.strip() or f'ended with {answer.exit_code}'}")
    sys.exit(max(abs(answer.exit_code) for answer in answers))


@example("ps", "ps --json", fails="a host did not answer")
@click.command()
@json_option
def ps(as_json: bool) -> None:
    """List the units: ours, Redis's and PostgreSQL's."""
    answers = ask("state")
    found = {one.host: json.loads(one.out)["units"] for one in answers if not one.exit_code}
    if as_json:
        print_json(found if site.here() else next(iter(found.values()), []))
    else:
        rows = [(host, unit) for host, units in found.items() for unit in units]
        wide = ("host",) if site.here() else ()
        table(
            (*wide, "unit", "state", "pid", "up for", "restarts", "memory"),
            ((*((host,) if wide else ()), *_row(unit)) for host, unit in rows),
            right=("pid", "up for", "restarts", "memory"),
        )
    finish(answers)


def _row(unit: dict[str, Any]) -> tuple[str | Coloured, ...]:
    state = unit["state"] if unit["state"] != "active" else unit["detail"]
    return (
        unit["unit"].removesuffix(".service"),
        Coloured(state, _COLOURS.get(unit["state"], "red")),
        str(unit["pid"] or ""),
        "" if unit["uptime_seconds"] is None else duration(unit["uptime_seconds"]),
        str(unit["restarts"] or ""),
        "" if unit["memory_bytes"] is None else size(unit["memory_bytes"]),
    )


@example("up", "up worker")
@click.command()
@service_argument
def up(service: str | None) -> None:
    """Start the units of our programs (worker, beat, Flower, exporter), or of one of them."""
    _change("start", "started", service)


@example("down", "down flower")
@click.command()
@service_argument
def down(service: str | None) -> None:
    """Stop the units of our programs, or of one of them. Workers first finish what they are at.

    They start again with `up`, and with their host.
    """
    _change("stop", "stopped", service)


@example("restart", "restart worker")
@click.command()
@service_argument
def restart(service: str | None) -> None:
    """Restart the units of our programs, or of one of them. Workers first finish what they are at.

    Of a site, host after host: the next one only when the units of the one before run again.
    """
    _change("restart", "restarted", service, in_turn=True)


@example("worker:reload")
@click.command(name="worker:reload")
def worker_reload() -> None:
    """Restart the workers after the tasks that they are at. The same as `restart worker`."""
    _change("restart", "restarted", "worker", in_turn=True)


@example("worker:drain")
@click.command(name="worker:drain")
def worker_drain() -> None:
    """Stop the workers after the tasks that they are at. They start again with `up`, and with their host."""
    _change("stop", "stopped", "worker")


@example("beat:restart")
@click.command(name="beat:restart")
def beat_restart() -> None:
    """Restart beat. What is due in between is queued late. The same as `restart beat`."""
    _change("restart", "restarted", "beat", in_turn=True)


def _change(command: str, done: str, service: str | None, *, in_turn: bool = False) -> None:
    words = (command, *((service,) if service else ()))
    place = site.here()
    turns: list[list[str] | None] = [None]
    if place and in_turn:
        turns = [[host] for host in place.hosts(*site.GROUPS)]
    answers: list[Answer] = []
    for hosts in turns:
        for answer in ask(*words, hosts=hosts):
            answers.append(answer)
            if names := json.loads(answer.out.partition("\n")[0] or "[]"):
                failed = "" if not answer.exit_code else "not "
                say(f"{answer.host}: {', '.join(name.removesuffix('.service') for name in names)} {failed}{done}")
        if answers[-1].exit_code:
            break
    if left := [host for hosts in turns[len(answers) :] for host in hosts or ()]:
        say(f"Left as they are: {', '.join(left)}")
    if not any(json.loads(one.out.partition("\n")[0] or "[]") for one in answers) and not answers[-1].exit_code:
        raise StackError(f"no unit of {service or 'our programs'} is there")
    finish(answers)


@example("logs worker --since 10m", "logs --account 01a2b3c4", fails="a host did not answer")
@click.command()
@log_options
@click.argument("name", type=click.Choice((*on_host.SERVICES, "all")), default="all", metavar="[SERVICE|all]")
def logs(
    follow: bool, lines: int | None, since: datetime | None, account: str | None, task_id: str | None, name: str
) -> None:
    """Show lines of the journal. Of a site, the lines of all hosts in the order of their times.

    Lines of tasks end with fields, such as account=ID, by which lines can be chosen (docs/operations.md, Logs).
    """
    chosen = {Field.ACCOUNT: account, Field.TASK_ID: task_id}
    fields = [f"{field.in_journal}={value}" for field, value in chosen.items() if value]
    if lines is None and not (fields or since):
        lines = LINES
    asked: dict[str, Any] = {
        "services": list(on_host.SERVICES) if name == "all" else [name],
        "fields": fields,
        "since": since.timestamp() if since else None,
        "lines": lines,
    }
    if follow and site.here():
        raise StackError("logs -f follows the journal of one host: ssh -t HOST metabuilder logs -f")
    if follow:
        with suppress(KeyboardInterrupt):  # how following is ended
            subprocess.run([*on_host.journalctl(**asked), "--follow"], check=False)
        return
    answers = ask("logs", json.dumps(asked))
    entries = [entry for one in answers for entry in _entries(one.out)]
    for entry in sorted(entries, key=lambda one: one.partition(" ")[0]):
        tell_lines(entry)
    if not entries:
        say_no_line(account, task_id)
    finish(answers)


def _entries(text: str) -> list[str]:
    entries: list[str] = []
    for line in text.splitlines():
        if entries and not _ENTRY.match(line):
            entries[-1] += f"\n{line}"
        else:
            entries.append(line)
    return entries
