"""Checks what a host offers, before anything is installed there: room on its disks, folders that the user `celery`
can enter, a Python for the release, and servers that let the host in. The checks read the host's report
(library/preflight_report.py).
"""

import os
import shutil
from pathlib import Path

CACHE = "metabuilder"


def disks(report, needs, inodes):
    """Each file system has room for all our folders on it; `needs` are megabytes by folder."""
    by_device = {}
    for folder, disk in (report.get("disks") or {}).items():
        by_device.setdefault(disk["device"], []).append((folder, disk))
    for found in by_device.values():
        folders, disk = sorted(folder for folder, _ in found), found[0][1]
        needed = sum(int(needs[folder]) for folder in folders)
        if disk["free_mb"] < needed:
            said = ", ".join(f"{folder} {needs[folder]}" for folder in folders)
            yield (
                f"preflight_free_mb: {disk['free_mb']} MB are free on {disk['mount']}, and {needed} are needed there "
                f"({said}): make room, or lower preflight_free_mb"
            )
        if disk["free_inodes"] is not None and disk["free_inodes"] < inodes:
            yield (
                f"preflight_free_inodes: {disk['free_inodes']} inodes are free on {disk['mount']}, and {inodes} are "
                "needed: remove files, or lower preflight_free_inodes"
            )


def closed_folders(report):
    """The folders and files that the application's user must read are open to all users, whatever umask made them."""
    for path, mode in (report.get("closed") or {}).items():
        right, verb = ("o+rx", "enter") if mode.startswith("d") else ("o+r", "read")
        yield f"{path} has the mode {mode[1:]}, so the user celery cannot {verb} it: chmod {right} {path}"


def python(report):
    """The release runs with Debian's Python of the version that Ansible found."""
    if version := report.get("python_missing"):
        yield (
            f"ansible_python_interpreter is a Python {version}, and there is no /usr/bin/python{version} for the "
            "release to run with: leave the variable out, so that Debian's own Python is used"
        )


def access(name, report, limit, command):
    """Servers that are not hosts of this run already let this host in."""
    refused = report.get("refused") or []
    for server in refused:
        if not server["server"]:
            yield (
                f"{server['variable']} {server['host']}:{server['port']} does not let this host in "
                f"({server['why']}): that server is not a host of this inventory, so give this host access there"
            )
    left_out = [server for server in refused if server["server"]]
    if left_out:
        said = ", ".join(dict.fromkeys(f"{s['server']} (port {s['port']}: {s['why']})" for s in left_out))
        hosts = ",".join(dict.fromkeys([limit or name, *(server["server"] for server in left_out)]))
        yield (
            f"{said} does not let this host in, and is left out of this run: a run with all these hosts brings "
            f"firewalls and access rules up to date: {command} --limit '{hosts}'"
        )


def control_machine(needed):
    """The control machine, which builds releases, has room for them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / CACHE
    place = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(place).free // 1024**2
    if free < needed:
        yield (
            f"control machine: preflight_control_free_mb: {free} MB are free for {cache}, where releases are built, "
            f"and {needed} are needed: make room, name another folder in XDG_CACHE_HOME, or lower "
            "preflight_control_free_mb"
        )
    if not os.access(place, os.W_OK):
        yield f"control machine: {place}, where releases are built, is read-only: set another XDG_CACHE_HOME"


def preflight_ground(hostvars, names, settings):
    """All findings on the ground of the hosts `names`, each beginning with the host that it is about.

    `settings` are `free_mb` (by folder), `free_inodes`, `control_free_mb`, `limit` (the argument of --limit) and
    `command` (the command line before --limit).
    """
    found = list(control_machine(int(settings["control_free_mb"])))
    for name in names:
        report = hostvars[name].get("__preflight_report") or {}
        findings = [
            *disks(report, settings["free_mb"], int(settings["free_inodes"])),
            *closed_folders(report),
            *python(report),
            *access(name, report, settings["limit"], settings["command"]),
        ]
        found += [f"{name}: {finding}" for finding in findings]
    return found


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self):
        """The filters by name."""
        return {"preflight_ground": preflight_ground}
