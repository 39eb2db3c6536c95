"""What a host's units do and what the host has, as JSON: a program that needs only Debian's Python.

    on_host.py state                       units, disks, certificates, release and clock
    on_host.py readiness [PATTERN]         the same, updates that wait, whether journals are sent and arrive, and the
                                           newest of the files of a backup, whose paths match the pattern
    on_host.py start|stop|restart [SERVICE]...
    on_host.py logs JSON                   lines of the journal, as text; JSON has what journalctl is asked for

`metabuilder` runs it on its own host. ./manage.sh -i INVENTORY has each host's Python read it from standard input, as
the hosts of Redis and PostgreSQL have no release.
"""

import fnmatch
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SERVICES = {
    "worker": ("celery-worker.service", "celery-worker@*.service"),
    "beat": ("celery-beat.service",),
    "flower": ("celery-flower.service",),
    "exporter": ("metabuilder-exporter.service",),
    "watcher": ("mail-watcher.service",),
    "adminer": ("metabuilder-adminer.service",),
    "redis-commander": ("metabuilder-redis-commander.service",),
    "log-collector": ("metabuilder-log-collector.service",),
    "backup": ("metabuilder-backup-server.service", "metabuilder-backup-ledger.service"),
    "redis": ("redis-server@*.service", "redis-sentinel.service"),
    "postgres": ("postgresql@*.service",),
}
# The others are the servers that these need.
OURS = ("worker", "beat", "flower", "exporter", "watcher")
HOME = "/opt/metabuilder"
_CERTIFICATES = Path("/etc/metabuilder/tls")
# Where the parts write; those on one file system are one disk.
_PLACES = (
    "/",
    "/var/log/journal",
    "/var/lib/redis",
    "/var/lib/postgresql",
    "/var/lib/pgbackrest",
    "/var/lib/metabuilder",
    HOME,
)
_PROPERTIES = (
    "Id,ActiveState,SubState,MainPID,MemoryCurrent,NRestarts,ActiveEnterTimestampMonotonic,Restart,UnitFileState"
)
# Sends the journal of a host, and where the collector of the role log_collection keeps those of others.
_SENDER, _RECEIVED = "systemd-journal-upload.service", "/var/log/journal/remote/*.journal"
# apt writes there when it fetches its lists; the files in them have the times of their servers.
_LISTS = ("/var/lib/apt/lists", "/var/lib/apt/lists/partial", "/var/cache/apt/pkgcache.bin")


def main(command: str, *words: str) -> int:
    """Run one of the commands; the exit code."""
    if command == "state":
        _tell(state())
        return 0
    if command == "readiness":
        _tell({**state(), "updates": updates(), "journals": journals(), "backup": newest(*words)})
        return 0
    if command == "logs":
        asked = json.loads(words[0])
        return subprocess.run(journalctl(**asked), check=False).returncode
    # A unit that was disabled stays as it is, unless it is asked for by name; `stop` is for whatever runs.
    found = units(words or OURS, also_disabled=bool(words) or command == "stop")
    _tell(found)
    return subprocess.run(["systemctl", command, *found], check=False).returncode if found else 0


def journalctl(services: list[str], fields: list[str], since: float | None, lines: int | None) -> list[str]:
    """The command for the last lines of these services (all: None), since that moment in Unix seconds, with these
    fields."""
    patterns = [f"--unit={pattern}" for name in services for pattern in SERVICES[name]]
    number = [] if lines is None else [f"--lines={lines}"]
    start = [] if since is None else [f"--since=@{since:.0f}"]
    shape = ["--no-pager", "--quiet", "--utc", "--output=short-iso-precise"]
    return ["journalctl", *shape, *number, *start, *patterns, *fields]


def state() -> dict[str, Any]:
    """What is seen of this host."""
    return {
        "units": unit_states(units(tuple(SERVICES))),
        "disks": disks(_PLACES),
        "certificates": [certificate(path) for path in sorted(_CERTIFICATES.glob("*.crt"))],
        "release": release("current"),
        "previous": release("previous"),
        "clock": time.time(),
    }


def release(link: str) -> str | None:
    """The release to which a link leads, `current` or `previous`; None where there is none."""
    path = Path(HOME, link)
    return path.readlink().name if path.is_symlink() else None


def journals() -> dict[str, Any]:
    """Whether this host sends its journal to another, and when it last got lines of others, in Unix seconds."""
    sender = _said("systemctl", "show", _SENDER, "--property=ActiveState", "--value").strip()
    return {"sends": sender == "active", "received": newest(_RECEIVED)["written"]}


def newest(pattern: str = "") -> dict[str, Any]:
    """The file written last of those whose paths match, when it was, in Unix seconds, and its size; None of none."""
    paths = Path("/").glob(pattern.lstrip("/")) if pattern else ()
    found = [(path.stat(), path) for path in paths if path.is_file()]
    if not found:
        return {"path": None, "written": None, "bytes": None}
    status, path = max(found, key=lambda one: one[0].st_mtime)
    return {"path": str(path), "written": status.st_mtime, "bytes": status.st_size}


def units(services: tuple[str, ...], *, also_disabled: bool = True) -> list[str]:
    """The names of the units of these services that this host has: those enabled, and those that are loaded too."""
    patterns = [pattern for name in services for pattern in SERVICES[name]]
    wanted = _said("systemctl", "show", "multi-user.target", "--property=Wants", "--value").split()
    loaded = []
    if also_disabled:
        loaded = _said("systemctl", "list-units", "--all", "--plain", "--no-legend", *patterns).splitlines()
    names = [*wanted, *(line.split()[0] for line in loaded if " not-found " not in line)]
    return sorted({name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)})


def unit_states(names: list[str]) -> list[dict[str, Any]]:
    """What systemd says of these units."""
    if not names:
        return []
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    blocks = _said("systemctl", "show", f"--property={_PROPERTIES}", *names).strip().split("\n\n")
    found = [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]
    return [
        {
            "unit": unit["Id"],
            "state": unit["ActiveState"],
            "detail": unit["SubState"],
            "pid": int(unit["MainPID"]) or None,
            "uptime_seconds": max(now - int(unit["ActiveEnterTimestampMonotonic"]) / 1e6, 0)
            if unit["ActiveState"] == "active"
            else None,
            "restarts": int(unit["NRestarts"]),
            "memory_bytes": int(unit["MemoryCurrent"]) if unit["MemoryCurrent"].isdecimal() else None,
            "restart_policy": unit["Restart"],
            "starts_with_host": unit["UnitFileState"].startswith("enabled"),
        }
        for unit in found
    ]


def updates() -> dict[str, Any]:
    """The updates that wait as far as apt's lists know, when these were fetched, and whether a reboot is needed."""
    said = _said("apt-get", "--simulate", "--option=Debug::NoLocking=true", "dist-upgrade").splitlines()
    waiting = [line for line in said if line.startswith("Inst ")]
    fetched = [Path(path).stat().st_mtime for path in _LISTS if Path(path).exists()]
    kernel = Path("/vmlinuz")
    is_old = kernel.exists() and kernel.resolve().name != f"vmlinuz-{os.uname().release}"
    return {
        "waiting": len(waiting),
        "security": sum("-Security" in line for line in waiting),
        "fetched": max(fetched, default=None),
        "reboot": is_old or Path("/run/reboot-required").exists(),
    }


def disks(places: tuple[str, ...]) -> list[dict[str, Any]]:
    """The file systems on which these folders lie, each once, with the share of bytes and of files that is used."""
    found: dict[int, dict[str, Any]] = {}
    for place in places:
        if not Path(place).exists():
            continue
        size = os.statvfs(place)
        found.setdefault(
            Path(place).stat().st_dev,
            {
                "place": place,
                "bytes_free": size.f_bavail * size.f_frsize,
                "bytes_used": _share(size.f_blocks - size.f_bfree, size.f_blocks - size.f_bfree + size.f_bavail),
                "files_used": _share(size.f_files - size.f_ffree, size.f_files),
            },
        )
    return list(found.values())


def certificate(path: Path) -> dict[str, Any]:
    """When a certificate ends, in Unix seconds; None where openssl cannot read it."""
    said = _said("openssl", "x509", "-noout", "-enddate", "-in", str(path)).partition("=")[2].strip()
    if not said:
        return {"path": str(path), "ends": None}
    ends = datetime.strptime(said, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)  # as openssl writes times
    return {"path": str(path), "ends": ends.timestamp()}


def _tell(found: Any) -> None:
    sys.stdout.write(f"{json.dumps(found)}\n")
    sys.stdout.flush()  # before a program that this one starts


def _share(used: int, whole: int) -> float:
    return used / whole if whole else 0.0


def _said(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
