"""`health` of a host and of a whole site: what does not work, where, and what to do."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import click

from manage import site
from manage.examples import example
from manage.host_checks import check_host, releases_differ
from manage.output import Coloured, print_json, say, tell
from manage.passed_on import PROGRAM
from manage.place import COMMAND
from manage.session import json_option
from manage.site import Answer
from manage.units import ask
from native.check import Check
from native.errors import StackError

# A check, and the host that it is about; an empty name for what is about all of them.
Found = tuple[str, Check]
_SITE = ""


@example(
    "health", "health --strict --json", fails="a part does not do its work, or with --strict: a person should look"
)
@click.command()
@json_option
@click.option("--all", "shows_all", is_flag=True, help="Show what is well too.")
@click.option("--strict", is_flag=True, help="Exit with 1 also for what works and a person should look at.")
@click.option("--site-alone", is_flag=True, hidden=True)
def health(as_json: bool, shows_all: bool, strict: bool, site_alone: bool) -> None:
    """Say what does not work, and what to do: a line for each finding.

    Looked at are units, disks, certificates, clocks and releases of hosts, and what Redis and PostgreSQL know:
    whether a canary comes back from each queue, how old messages are, workers, beat, overdue accounts, dead letters,
    and mail of which nobody knows whether it was sent. On a host of celery_workers: that host and the site. From the
    control machine: all hosts, and the site as the first worker's host that can be reached sees it.
    """
    if site.here():
        found = _all_hosts()
    else:
        from manage.site_checks import check_site

        found = [] if site_alone else _this_host()
        found += [(_SITE, check) for check in check_site()]
    if as_json:
        print_json([{"host": host or None, **check.as_dict()} for host, check in found])
    else:
        _show(found, shows_all=shows_all)
    sys.exit(1 if any(not check.ok or (strict and check.warns) for _, check in found) else 0)


def _show(found: Sequence[Found], *, shows_all: bool) -> None:
    for host, check in sorted(found, key=lambda one: (one[1].ok, not one[1].warns)):
        if check.ok and not check.warns and not shows_all:
            continue
        word = Coloured("DOWN   ", "red") if not check.ok else Coloured("look   ", "yellow")
        if check.ok and not check.warns:
            word = Coloured("ok     ", "green")
        where = f"{host}: " if host else ""
        tell(
            word,
            f"{where}{check.component}: {check.detail.rstrip('.')}" + (f". {check.advice}" if check.advice else ""),
        )
    well = sum(check.ok and not check.warns for _, check in found)
    say(f"{well} of {len(found)} checks are well")


def _this_host() -> list[Found]:
    began = time.time()
    [answer] = ask("state")
    return _of_host(
        Answer(os.uname().nodename, answer.exit_code, answer.out, answer.said), (began, time.time()), None
    )


def _all_hosts() -> list[Found]:
    began = time.time()
    answers = ask("state")
    return [*of_hosts(answers, (began, time.time())), *of_site()]


def of_hosts(answers: Sequence[Answer], now: tuple[float, float]) -> list[Found]:
    """What the hosts of a site say of themselves; `now` is when they were asked and when they had answered."""
    found = [one for answer in answers for one in _of_host(answer, now, answer.host)]
    states = {one.host: json.loads(one.out) for one in answers if not one.exit_code}
    return [*found, (_SITE, releases_differ(states))]


def _of_host(answer: Answer, now: tuple[float, float], limit: str | None) -> list[Found]:
    if answer.exit_code:
        advice = "Look whether it is up and whether ssh and sudo work"
        return [(answer.host, Check("host", False, answer.said.strip() or "does not answer", advice))]
    logs = f"{COMMAND} -i INVENTORY --limit {limit} logs" if limit else f"{COMMAND} logs"
    return [(answer.host, check) for check in check_host(json.loads(answer.out), now=now, logs=logs)]


def of_site() -> list[Found]:
    """What the first host of the workers says that can be reached."""
    place = site.here()
    assert place is not None
    try:
        hosts = place.hosts(site.WORKERS)
    except StackError as error:
        advice = "Redis and PostgreSQL are asked from a host of celery_workers: let --limit leave one"
        return [(_SITE, Check("site", True, f"not asked: {error}", advice, warns=True))]
    said = ""
    for host in hosts:
        [answer] = place.run([host], (PROGRAM, "health", "--site-alone", "--json"))
        try:
            return [(_SITE, read_check(row)) for row in json.loads(answer.out)]
        except ValueError:
            said = f"{host}: {answer.said.strip() or 'says nothing'}"
        if not answer.is_away:
            break
    return [(_SITE, Check("site", False, said, "Look at metabuilder health on that host"))]


def read_check(row: dict[str, Any]) -> Check:
    """A check that a host printed, whose release may know more of it than this one."""
    known = {field.name for field in fields(Check)}
    return Check(**{name: value for name, value in row.items() if name in known})
