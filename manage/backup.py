"""`backup`: the backups of a site's PostgreSQL, which the host in the group `backup` makes and keeps (pgBackRest)."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from manage import site
from manage.examples import example
from manage.output import Coloured, duration, print_json, say, size, table, tell_lines, waiting
from manage.session import json_option
from manage.site import Answer, Site
from native.errors import StackError

_GROUP = "backup"
_PGBACKREST = ("runuser", "--user=postgres", "--", "pgbackrest", "--stanza=metabuilder")
_INFO = (*_PGBACKREST, "info", "--output=json")
_TYPES = {"full": "full", "incr": "incremental", "diff": "differential"}
_POLL_SECONDS = 2
# What verify says where all is well, in the last line that begins so.
_WELL = "status: ok"


@dataclass(frozen=True)
class Backup:
    """A backup: its name, when it was made, how large the database was, and what of that the backup added."""

    name: str
    kind: str
    began: datetime
    ended: datetime
    database_bytes: int
    added_bytes: int
    is_damaged: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Backup":
        """From a row of pgBackRest's `info`."""
        began, ended = (datetime.fromtimestamp(row["timestamp"][name], UTC) for name in ("start", "stop"))
        info = row["info"]
        kind = _TYPES.get(row["type"], str(row["type"]))
        # An error is known where pages with wrong checksums were found.
        return cls(
            row["label"], kind, began, ended, info["size"], info["repository"]["delta"], bool(row.get("error"))
        )


@click.group()
def backup() -> None:
    """The backups of a site's PostgreSQL."""


@example("backup list -i inventories/production", fails="there is no backup, or its host did not answer")
@backup.command(name="list")
@site.site_options
@json_option
def list_(as_json: bool, **_options: Any) -> None:
    """List the backups, the oldest first, and up to where the database can be restored."""
    place, host = _host()
    found, archived = _read(_ask(place, host, _INFO))
    if as_json:
        print_json({"host": host, "archived": archived, "backups": [vars(one) for one in found]})
    else:
        _show(found, archived)
    if not found:
        raise StackError(
            f"{host} has no backup yet: see systemctl status 'metabuilder-backup@*' there, "
            "or make one: ./manage.sh backup now -i inventories/NAME"
        )


def _show(found: Sequence[Backup], archived: str | None) -> None:
    if not found:
        return
    table(
        ("backup", "kind", "ended", "took", "database", "added"),
        (
            (
                Coloured(one.name, "red" if one.is_damaged else ""),
                f"{one.kind}, damaged" if one.is_damaged else one.kind,
                f"{one.ended:%Y-%m-%d %H:%M:%S} UTC",
                duration((one.ended - one.began).total_seconds()),
                size(one.database_bytes),
                size(one.added_bytes),
            )
            for one in found
        ),
        right=("took", "database", "added"),
        whole=("backup",),
    )
    say(f"Any moment since {found[0].ended:%Y-%m-%d %H:%M:%S} UTC can be restored, up to WAL file {archived}.")


@example(
    "backup now -i inventories/production",
    "backup now -i inventories/production --full",
    fails="the backup was not made; the last lines of its log are shown",
)
@backup.command()
@click.option("--full", is_flag=True, help="Of the whole database, not of what has changed alone.")
@site.site_options
@json_option
def now(full: bool, as_json: bool, **_options: Any) -> None:
    """Make a backup, and wait until it is there.

    It is made by a unit of its host: it goes on where this command is interrupted.
    """
    place, host = _host()
    unit = f"metabuilder-backup@{'full' if full else 'incr'}.service"
    before, _ = _read(_ask(place, host, _INFO))
    _ask(place, host, ("systemctl", "reset-failed", "metabuilder-backup@*.service"))
    _ask(place, host, ("systemctl", "start", "--no-block", unit))
    state = _wait(place, host, unit, quiet=as_json)
    if state["Result"] != "success":
        lines = _ask(place, host, ("journalctl", f"--unit={unit}", "--lines=15", "--no-pager", "--output=cat"))
        tell_lines(lines)
        raise StackError(f"{host} made no backup ({state['Result']}): the last lines of {unit} are above")
    after, _ = _read(_ask(place, host, _INFO))
    made = [one for one in after if one.name not in {known.name for known in before}]
    if as_json:
        print_json({"host": host, "backups": [vars(one) for one in made]})
    for one in () if as_json else made:
        took = duration((one.ended - one.began).total_seconds())
        say(f"{one.name}: {one.kind} backup of {size(one.database_bytes)}, {size(one.added_bytes)} added in {took}")


def _wait(place: Site, host: str, unit: str, *, quiet: bool) -> dict[str, str]:
    """Wait until the unit has ended; its last state. Systemd answers `activating` from the start on."""
    asked = ("systemctl", "show", "--property=ActiveState,Result,Job", unit)
    with waiting(f"{host} makes the backup", quiet=quiet):
        while True:
            state = dict(line.split("=", 1) for line in _ask(place, host, asked).splitlines())
            if state["ActiveState"] in ("inactive", "failed") and not int(state.get("Job") or 0):
                return state
            time.sleep(_POLL_SECONDS)


@example("backup verify -i inventories/production", fails="a file is missing or damaged, or there is no backup")
@backup.command()
@site.site_options
@json_option
def verify(as_json: bool, **_options: Any) -> None:
    """Read all backups and archived WAL, and compare each file with its checksum. Takes time and disk for large ones.

    Whether the database comes back from them is another question, which only a restore answers.
    """
    place, host = _host()
    found, _ = _read(_ask(place, host, _INFO))
    said = _ask(place, host, ("nice", "ionice", "--class=idle", *_PGBACKREST, "verify", "--output=text", "--verbose"))
    is_well = bool(found) and any(line.strip() == _WELL for line in said.splitlines())
    if as_json:
        print_json({"host": host, "ok": is_well, "backups": len(found), "said": said.splitlines()})
    else:
        tell_lines(said)
    if not found:
        raise StackError(f"{host} has no backup that could be verified")
    if not is_well:
        raise StackError(
            f"backups on {host} are damaged: keep what is there, make a full one now (./manage.sh backup now --full "
            "-i inventories/NAME), and see what is wrong with the disk"
        )
    if not as_json:
        say(f"{len(found)} backups and the archived WAL on {host} are whole")


def _host() -> tuple[Site, str]:
    """The site, and its host with the backups."""
    context = click.get_current_context()
    site.remember(context)
    place = site.here()
    if place is None:
        raise click.UsageError(f"name the site: ./manage.sh backup {context.info_name} -i inventories/NAME", context)
    return place, place.hosts(_GROUP)[0]


def _ask(place: Site, host: str, argv: Sequence[str]) -> str:
    """What a command says on the host. Raises StackError where it fails."""
    answer: Answer
    [answer] = place.run([host], argv)
    if answer.exit_code:
        said = " ".join((answer.said or answer.out).split())
        raise StackError(f"{host}: {said or f'{argv[0]} ended with {answer.exit_code}'}")
    return answer.out


def _read(said: str) -> tuple[list[Backup], str | None]:
    """The backups, the oldest first, and the newest file of WAL that is archived."""
    rows = [row for row in json.loads(said) if row["status"]["code"] in (0, 2)]  # 2: has no backup yet
    if not rows:
        return [], None
    [row] = rows
    archived = max((one["max"] for one in row["archive"][-1:] if one["max"]), default=None)
    return sorted((Backup.of(one) for one in row["backup"]), key=lambda one: one.ended), archived
