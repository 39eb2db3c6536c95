"""Checks of a host by what manage/on_host.py says of it: its units, disks, certificates and clock."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from manage.output import size
from native.check import Check

# Shares of a disk's bytes, or of the number of files that it can have.
_FULL, _NEARLY_FULL = 0.95, 0.85
# Certificates are renewed 30 days before their end by a run of site.yml.
_CERTIFICATE_DAYS = 14
_CLOCK_SECONDS = 5
_DAY = 86_400
# Of a unit that is to be restarted, or that systemd starts at the moment.
_ON_ITS_WAY = ("activating", "reloading", "deactivating")


def check_host(state: Mapping[str, Any], *, now: tuple[float, float], logs: str) -> Iterator[Check]:
    """The checks of one host.

    `now` is when the host was asked and when its answer was there, in Unix seconds by the clock of whoever asked, and
    `logs` the command that shows the lines of one of its services.
    """
    yield from _units(state["units"], logs)
    for disk in state["disks"]:
        yield _disk(disk)
    for certificate in state["certificates"]:
        yield _certificate(certificate, now[0])
    yield _clock(state["clock"], now)


def releases_differ(states: Mapping[str, Mapping[str, Any]]) -> Check:
    """The releases that the hosts have, by host, compared."""
    hosts: dict[str, list[str]] = {}
    for host, state in states.items():
        if state["release"]:
            hosts.setdefault(state["release"], []).append(host)
    if len(hosts) < 2:
        return Check("releases", True, f"all hosts have {next(iter(hosts), 'none')}")
    detail = "; ".join(f"{', '.join(names)}: {release}" for release, names in sorted(hosts.items()))
    advice = "Bring one to all hosts: ansible-playbook playbooks/deploy.yml, or go back: playbooks/rollback.yml"
    return Check("releases", True, f"hosts differ: {detail}", advice, warns=True)


def _units(units: list[dict[str, Any]], logs: str) -> Iterator[Check]:
    well = 0
    for unit in units:
        name, state = unit["unit"].removesuffix(".service"), unit["state"]
        advice = f"{logs} {_service(name)}; start it with `up`"
        if state == "active":
            well += 1
        elif state in _ON_ITS_WAY:
            yield Check(f"unit {name}", True, state, advice, warns=True)
        else:
            yield Check(f"unit {name}", False, "is stopped" if state == "inactive" else state, advice)
    if well:
        yield Check("units", True, f"{well} run")
    elif not units:
        yield Check("units", False, "none of ours is there", "Run site.yml, or take the host out of the inventory")


def _service(unit: str) -> str:
    name = unit.partition("@")[0].removeprefix("celery-").removeprefix("metabuilder-").removesuffix("-server")
    return {"postgresql": "postgres", "redis-sentinel": "redis", "backup-ledger": "backup"}.get(name, name)


def _disk(disk: Mapping[str, Any]) -> Check:
    what = "bytes" if disk["bytes_used"] >= disk["files_used"] else "files"
    used = max(disk["bytes_used"], disk["files_used"])
    detail = f"{used:.0%} of its {what} used, {size(disk['bytes_free'])} free"
    figures = {"bytes_used": disk["bytes_used"], "files_used": disk["files_used"], "bytes_free": disk["bytes_free"]}
    if used < _NEARLY_FULL:
        return Check(f"disk {disk['place']}", True, detail, figures=figures)
    advice = f"Make room (du -xh --max-depth=2 {disk['place']}), or give it a larger disk"
    is_full = used >= _FULL
    return Check(f"disk {disk['place']}", not is_full, detail, advice, warns=not is_full, figures=figures)


def _certificate(certificate: Mapping[str, Any], now: float) -> Check:
    name = f"certificate {certificate['path'].rpartition('/')[2]}"
    if certificate["ends"] is None:
        return Check(name, False, f"{certificate['path']} cannot be read", "Run site.yml, which makes it anew")
    days = (certificate["ends"] - now) / _DAY
    ends = datetime.fromtimestamp(certificate["ends"], UTC).date()
    if days > _CERTIFICATE_DAYS:
        return Check(name, True, f"ends on {ends}, in {days:.0f} days", figures={"days": days})
    detail = f"ends on {ends}, in {days:.0f} days" if days > 0 else f"ended on {ends}"
    advice = "Run site.yml, which renews it, or bring a new one (tls_… in the inventory)"
    return Check(name, days > 0, detail, advice, warns=days > 0, figures={"days": days})


def _clock(clock: float, now: tuple[float, float]) -> Check:
    asked, answered = now
    ahead = clock - asked if clock < asked else max(clock - answered, 0.0)
    figures = {"ahead_seconds": ahead}
    if abs(ahead) < _CLOCK_SECONDS:
        return Check("clock", True, "agrees", figures=figures)
    detail = f"is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of the machine that asked"
    return Check("clock", True, detail, "Look at timedatectl status on both", warns=True, figures=figures)
