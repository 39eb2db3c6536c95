"""`redis:status`, `redis:switchover`: a site whose Redis is on several hosts, of which one is the master.

The hosts of Redis have no release. Their own program answers, which the role `redis` brings there.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from manage import site
from manage.examples import example
from manage.output import Coloured, print_json, say, table
from manage.session import json_option
from manage.site import Answer, Site
from native.errors import StackError

_GROUP = "redis"
_PROGRAM = "/usr/local/sbin/metabuilder-redis-failover"
_COLOURS = {"master": "green", "away": "red"}


@example("redis:status -i inventories/production", fails="a host, a replica or a Sentinel is away, or they disagree")
@click.command(name="redis:status")
@site.site_options
@json_option
def status(as_json: bool, **_options: Any) -> None:
    """Show which host has the master of each instance of Redis, what follows it, and what each Sentinel says."""
    answer = _ask(_site("redis:status"), "status", "--json")
    try:
        found = json.loads(answer.out)
    except ValueError:
        raise StackError(f"{answer.host}: {answer.said.strip() or answer.out.strip()}") from None
    if as_json:
        print_json(found)
    else:
        _show(found)
    sys.exit(any(each["faults"] for each in found.values()))


def _show(found: dict[str, Any]) -> None:
    rows = [
        (name, host, Coloured(its["role"], _COLOURS.get(its["role"], "")), _detail(its), each["sentinels"][host])
        for name, each in found.items()
        for host, its in each["redis"].items()
    ]
    table(
        ("instance", "host", "role", "", "its Sentinel takes for the master"),
        ((name, host, role, detail, told or Coloured("away", "red")) for name, host, role, detail, told in rows),
    )
    for name, each in found.items():
        for fault in each["faults"]:
            say(f"{name}: {fault}")


def _detail(its: dict[str, Any]) -> str:
    if its["role"] == "master":
        return f"{its['replicas']} replicas"
    return f"of {its['of']}, link {its['link']}" if its["role"] == "replica" else ""


@example(
    "redis:switchover -i inventories/production",
    "redis:switchover -i inventories/production broker redis2",
    fails="another host could not take over; the master stays as it is",
)
@click.command(name="redis:switchover")
@click.argument("instance", default="broker")
@click.argument("host", required=False)
@site.site_options
def switchover(instance: str, host: str | None, **_options: Any) -> None:
    """Make another host the master of an instance of Redis: HOST, or the replica that has most.

    Nothing that was written is lost: writes are paused until the replica has all of them. Tasks that are queued
    meanwhile wait for a second or two. Nothing is changed unless most of the Sentinels answer.
    """
    answer = _ask(_site("redis:switchover"), "switchover", instance, *(() if host is None else (host,)))
    if answer.exit_code:
        raise StackError(f"{answer.host}: {' '.join(answer.said.split()) or f'ended with {answer.exit_code}'}")
    say(answer.out.strip())


def _site(verb: str) -> Site:
    context = click.get_current_context()
    site.remember(context)
    place = site.here()
    if place is None:
        raise click.UsageError(f"name the site: ./manage.sh {verb} -i inventories/NAME", context)
    return place


def _ask(place: Site, *words: str) -> Answer:
    """What the first host of Redis says that can be reached: each knows all. Raises StackError if none can be."""
    away: Sequence[str] = []
    hosts = place.hosts(_GROUP)
    if len(hosts) < 2 and place.limit is None:
        raise StackError(
            f"{hosts[0]} is the only host of the group {_GROUP}: nothing can take over, nothing follows it"
        )
    for host in hosts:
        [answer] = place.run([host], (_PROGRAM, *words))
        if not answer.is_away:
            return answer
        say(f"{host}: {answer.said}")
        away = [*away, host]
    raise StackError(f"no host of the group {_GROUP} can be reached: {', '.join(away)}")
