#!/usr/bin/python
"""Ensure that a systemd unit is enabled and runs with its current configuration."""

import contextlib
from datetime import datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: unit_current
short_description: A systemd unit runs with its current configuration
description:
  - Enables and starts a unit, and restarts it when something it reads changed after it was started. What counts is
    when the files changed, not whether this play changed them, so a play that died between a change and its restart
    is completed by the next one, and nothing restarts twice.
  - The unit's own file and its drop-ins always count as read. So do the programs and libraries of the system that its
    processes have in memory, so that an update of a package (OpenSSL, Python, Redis) is in use after the next play.
options:
  name: {description: The unit., type: str, required: true}
  reads: {description: Files or links that it reads when it starts., type: list, elements: path, default: []}
  reloads: {description: Files that it reads again when it is reloaded., type: list, elements: path, default: []}
  needs: {description: What it is known to need besides., type: str, choices: [restart, reload]}
  enabled: {description: Whether it starts at boot., type: bool, default: true}
  mark:
    description:
      - A file that is made before the unit is started or restarted. Whoever has seen the unit work removes it.
      - `unproved` of the result says whether it is there, after this run or one that died or failed before.
    type: path
"""

EXAMPLES = r"""
- name: Redis runs with its current configuration
  unit_current:
    name: redis-server@broker.service
    reads: [/etc/redis/redis-broker.conf, /etc/redis/broker.acl]
"""

PROPERTIES = (
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
    "MainPID",
    "ControlGroup",
    "ExecMainStartTimestamp",
    "ActiveEnterTimestamp",
    "StateChangeTimestamp",
)
# Where packages have their programs and libraries.
PACKAGED = ("/usr/", "/lib/", "/lib64/")
# What `systemctl enable` has nothing to do for.
ENABLED = ("enabled", "enabled-runtime", "static", "generated", "indirect", "alias", "transient")


class Unit:
    """One unit, by systemctl."""

    def __init__(self, module):
        self.module = module
        self.name = module.params["name"]
        self.done = []

    def show(self):
        """Its properties by name; empty where its kind has none, as sockets and timers have no process."""
        # Every timestamp to the microsecond, so that a file written just before the start is not newer than it.
        command = ["systemctl", "show", "--timestamp=us+utc", f"--property={','.join(PROPERTIES)}", self.name]
        _code, out, _errors = self.module.run_command(command, check_rc=True)
        return dict.fromkeys(PROPERTIES, "") | dict(line.partition("=")[::2] for line in out.splitlines())

    def act(self, *verb):
        """Do it, unless only asked what would be done. Fails with the unit's last words."""
        self.done.append(verb[0])
        if self.module.check_mode:
            return
        if self.module.params["mark"] and verb[0] in ("start", "restart"):
            Path(self.module.params["mark"]).touch()
        code, _out, errors = self.module.run_command(["systemctl", *verb])
        if code:
            _code, journal, _errors = self.module.run_command(
                ["journalctl", f"--unit={self.name}", "--lines=25", "--no-pager", "--output=cat"]
            )
            self.module.fail_json(
                msg=f"systemctl {' '.join(verb)} failed: {errors.strip()}", journal=journal.splitlines()
            )

    def told(self, because):
        """What --diff shows."""
        why = f": {', '.join(because)}" if because else ""
        return {"prepared": "".join(f"systemctl {verb} {self.name}{why}\n" for verb in self.done)}


def is_outdated(name, properties):
    """Whether systemd must read the unit again; by itself it does not see a first drop-in in a new folder."""
    if properties["NeedDaemonReload"] == "yes" or properties["LoadState"] != "loaded":
        return True
    stem, at, _instance = name.rpartition("@")
    names = [name, f"{stem}@.{name.rpartition('.')[2]}"] if at else [name]
    there = {str(path) for one in names for path in Path(f"/etc/systemd/system/{one}.d").glob("*.conf")}
    return not there <= set(properties["DropInPaths"].split())


def changed_at(path):
    """When a file or link last changed, in seconds since the epoch; 0 if there is none."""
    file = Path(path)
    try:
        link = file.lstat().st_ctime
        return max(link, file.stat().st_ctime) if file.is_file() else link
    except OSError:
        return 0.0


def moment(timestamp):
    """What systemd prints, in seconds since the epoch; 0 if it is empty."""
    if not timestamp or timestamp == "n/a":
        return 0.0
    return datetime.strptime(f"{timestamp} +0000", "%a %Y-%m-%d %H:%M:%S.%f UTC %z").timestamp()


def newer(paths, since):
    """Those of `paths` that changed after `since`."""
    return [path for path in paths if changed_at(path) > since]


def processes(properties):
    """The process ids of a unit."""
    found = [properties["MainPID"] or 0]
    # One that has done its work and left no process has no group.
    if group := properties["ControlGroup"]:
        with contextlib.suppress(OSError):
            found += Path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split()
    return {int(pid) for pid in found} - {0}


def replaced(pids, below=PACKAGED):
    """The programs and libraries that these processes have in memory, and that are others on disk by now."""
    found = set()
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        except OSError:
            continue  # it has ended
        paths = (line.split(maxsplit=5)[5] for line in maps if line.endswith(" (deleted)"))
        found |= {path.removesuffix(" (deleted)") for path in paths if path.startswith(below)}
    return [f"{path} was replaced" for path in sorted(found)]


def bring_up(unit, properties, params):
    """Start, restart or reload as needed; what for."""
    if properties["ActiveState"] not in ("active", "reloading"):
        # A unit that failed too often would be refused.
        unit.module.run_command(["systemctl", "reset-failed", unit.name])
        unit.act("restart" if properties["ActiveState"] == "activating" else "start", unit.name)
        return ["it was not running"]
    own = [path for path in [properties["FragmentPath"], *properties["DropInPaths"].split()] if path]
    started = moment(properties["ExecMainStartTimestamp"]) or moment(properties["ActiveEnterTimestamp"])
    reasons = newer([*own, *params["reads"]], started) or replaced(processes(properties))
    if reasons:
        unit.act("restart", unit.name)
        return reasons
    if params["needs"]:
        unit.act(params["needs"], unit.name)
        # In check mode roles ask for it on account of files that they would have written.
        return ["what it reads would be changed" if unit.module.check_mode else f"it needs a {params['needs']}"]
    reasons = newer(params["reloads"], moment(properties["StateChangeTimestamp"]))
    if reasons:
        unit.act("reload", unit.name)
    return reasons


def main():
    """What Ansible runs."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "reads": {"type": "list", "elements": "path", "default": []},
            "reloads": {"type": "list", "elements": "path", "default": []},
            "needs": {"type": "str", "choices": ["restart", "reload"]},
            "enabled": {"type": "bool", "default": True},
            "mark": {"type": "path"},
        },
        supports_check_mode=True,
    )
    unit = Unit(module)
    properties = unit.show()
    if is_outdated(unit.name, properties):
        unit.module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        properties = unit.show()
    is_loaded = properties["LoadState"] == "loaded"
    if not is_loaded and not module.check_mode:
        module.fail_json(msg=f"there is no unit {unit.name} ({properties['LoadState']})")
    if not is_loaded or (module.params["enabled"] and properties["UnitFileState"] not in ENABLED):
        unit.act("enable", unit.name)
    because = bring_up(unit, properties, module.params)
    module.exit_json(
        name=unit.name,
        changed=bool(unit.done),
        done=unit.done,
        because=because,
        unproved=bool(module.params["mark"]) and Path(module.params["mark"]).exists(),
        diff=unit.told(because),
    )


if __name__ == "__main__":
    main()
