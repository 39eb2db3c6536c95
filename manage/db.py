"""`db:…`: the hosts that keep copies of the database, and which of them takes writes (docs/high-availability.md)."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from manage import site
from manage.examples import example
from manage.output import Coloured, confirm, print_json, say, table, waiting
from manage.session import json_option
from manage.site import Site
from native.errors import StackError

_GROUP = "postgresql"
_CLUSTER = "metabuilder"
_PATRONICTL = ("runuser", "--user=postgres", "--", "patronictl", "--config-file=/etc/patroni/config.yml")
_LIST = (*_PATRONICTL, "list", "--format=json")
_ROLES = {"Leader": "takes writes", "Sync Standby": "has every commit", "Quorum Standby": "has every commit"}
_FOLLOWS = "follows"
# What a server that takes writes or follows is said to be.
_WELL = ("running", "streaming")
_POLL_SECONDS = 2
# Within which a planned change is done: a shutdown writes all that is in memory to disk.
_PATIENCE_SECONDS = 180


@dataclass(frozen=True)
class Copy:
    """What a host has of the database. `lag_mb` is how much it has not got yet, if that is known."""

    host: str
    role: str
    state: str
    lag_mb: int | None
    waits_for_restart: bool

    @property
    def is_leader(self) -> bool:
        """Whether the host takes writes."""
        return self.role == _ROLES["Leader"] and self.is_well

    @property
    def is_well(self) -> bool:
        """Whether it takes writes, or has its copy and follows."""
        return self.state in _WELL

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Copy":
        """From a row of what Patroni lists."""
        lag = row.get("Lag in MB")
        role = _ROLES.get(row["Role"], _FOLLOWS)
        return cls(row["Member"], role, row["State"], lag if isinstance(lag, int) else None, "Pending restart" in row)


class Database:
    """The hosts of the group `postgresql` of a site."""

    def __init__(self, place: Site) -> None:
        self.place = place
        self.hosts = place.hosts(_GROUP)

    def ask(self, *argv: str, stdin: str = "") -> str:
        """What the first host says that answers. Raises StackError where none does."""
        if len(self.hosts) == 1:
            raise StackError(
                f"{self.hosts[0]} is the only host of the group {_GROUP}, so there are no copies: see "
                "docs/high-availability.md"
            )
        why = []
        for host in self.hosts:
            [answer] = self.place.run([host], argv, stdin)
            if answer.exit_code == 0:
                return answer.out
            why.append(f"{host}: {' '.join((answer.said or answer.out).split())}")
        raise StackError("; ".join(why))

    def copies(self) -> list[Copy]:
        """What each host of the inventory has, also one of which the others know nothing."""
        found = {copy.host: copy for copy in map(Copy.of, json.loads(self.ask(*_LIST)))}
        return [found.get(host) or Copy(host, "", "is away", None, False) for host in self.hosts]

    def leader(self) -> str:
        """The host that takes writes. Raises StackError where there is none."""
        for copy in self.copies():
            if copy.is_leader:
                return copy.host
        raise StackError(
            "no host takes writes now: see ./manage.sh db:status, and journalctl -u patroni on the hosts"
        )

    def wait(self, for_what: str, is_done: Callable[[dict[str, Copy]], bool], patience: float) -> None:
        """Wait until the copies, by host, are as they are to be. Raises StackError where they are not in time."""
        until = time.monotonic() + patience
        with waiting(for_what, quiet=False):
            while not is_done({copy.host: copy for copy in self.copies()}):
                if time.monotonic() > until:
                    raise StackError(f"{for_what}: not done after {patience:.0f} s: see ./manage.sh db:status")
                time.sleep(_POLL_SECONDS)


@example("db:status -i inventories/production", fails="no host takes writes, or a host has no copy that follows")
@click.command("db:status")
@site.site_options
@json_option
def status(as_json: bool, **_options: Any) -> None:
    """Show which host of PostgreSQL takes writes, and how far the others follow."""
    copies = _database().copies()
    if as_json:
        print_json([vars(copy) for copy in copies])
    else:
        table(
            ("host", "role", "state", "lag", ""),
            (
                (
                    copy.host,
                    copy.role,
                    Coloured(copy.state, "green" if copy.is_well else "red"),
                    "" if copy.lag_mb is None else f"{copy.lag_mb} MB",
                    "waits for a restart" if copy.waits_for_restart else "",
                )
                for copy in copies
            ),
            right=("lag",),
        )
    if not any(copy.is_leader for copy in copies):
        raise StackError(
            "no host takes writes: most hosts must reach each other, see journalctl -u patroni -u etcd on them"
        )
    if away := [copy.host for copy in copies if not copy.is_well]:
        raise StackError(
            f"no copy that follows on {', '.join(away)}: see journalctl -u patroni there; db:rebuild makes it anew"
        )


@example("db:switchover -i inventories/production db2", fails="the host cannot take writes; the one before goes on")
@click.command("db:switchover")
@click.argument("host", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@site.site_options
def switchover(host: str | None, yes: bool, **_options: Any) -> None:
    """Have HOST take writes, or the one that has every commit. The one before is restarted, and follows.

    No commit is lost. Writes wait for some seconds.
    """
    database = _database()
    before = database.leader()
    if host is not None:
        _check(database, host)
    if host == before:
        say(f"{host} takes writes already")
        return
    if not yes:
        confirm(f"Have {host or 'another host'} take writes instead of {before}?")
    with _every_commit_on(database, host):
        chosen = ("--candidate", host) if host else ()
        said = database.ask(*_PATRONICTL, "switchover", "--force", *chosen, _CLUSTER)
    if "failed" in said.lower():
        raise StackError(f"{before} still takes writes: {' '.join(said.split())}")

    def is_done(copies: dict[str, Copy]) -> bool:
        leads = [copy.host for copy in copies.values() if copy.is_leader]
        return leads not in ([], [before]) and copies[before].is_well

    database.wait(f"another host takes writes, and {before} follows", is_done, _PATIENCE_SECONDS)
    say(f"{database.leader()} takes writes, {before} follows")


@contextmanager
def _every_commit_on(database: Database, host: str | None) -> Iterator[None]:
    """Only a host that has every commit may take writes: if it is not HOST, have all hosts get each for that long."""
    wanted = _ROLES["Sync Standby"]
    if host is None or {copy.host: copy.role for copy in database.copies()}[host] == wanted:
        yield
        return
    _agree(database, synchronous_node_count=len(database.hosts) - 1)
    try:
        database.wait(f"{host} has every commit", lambda copies: copies[host].role == wanted, _PATIENCE_SECONDS)
        yield
    finally:
        _agree(database, synchronous_node_count=None)


def _agree(database: Database, **settings: object) -> None:
    """Have all hosts agree on a setting of Patroni; None takes it back."""
    database.ask(*_PATRONICTL, "edit-config", "--force", "--quiet", "--apply=-", _CLUSTER, stdin=json.dumps(settings))


@example("db:rebuild -i inventories/production db2", fails="the host takes writes, or could not be reached")
@click.command("db:rebuild")
@click.argument("host")
@click.option("--yes", is_flag=True, help="Do not ask.")
@site.site_options
def rebuild(host: str, yes: bool, **_options: Any) -> None:
    """Throw the copy of the database on HOST away, and have it copied anew from the host that takes writes."""
    database = _database()
    _check(database, host)
    if host == database.leader():
        raise StackError(f"{host} takes writes, so its database is no copy: ./manage.sh db:switchover first")
    if not yes:
        confirm(f"Throw the copy on {host} away, and make it anew?")
    # It ends when the database is copied, which takes as long as it is large.
    with waiting(f"{host} copies the database", quiet=False):
        said = database.ask(*_PATRONICTL, "reinit", "--force", "--wait", _CLUSTER, host)
    if "failed" in said.lower():
        raise StackError(f"{host}: {' '.join(said.split())}")
    database.wait(f"{host} follows", lambda copies: copies[host].is_well, _PATIENCE_SECONDS)
    say(f"{host} has a copy, and follows")


def _check(database: Database, host: str) -> None:
    if host not in database.hosts:
        raise StackError(f"{host} is not in the group {_GROUP}: {', '.join(database.hosts)}")


def _database() -> Database:
    context = click.get_current_context()
    site.remember(context)
    place = site.here()
    if place is None:
        raise click.UsageError(f"name the site: ./manage.sh -i inventories/NAME {context.info_name}", context)
    return Database(place)
