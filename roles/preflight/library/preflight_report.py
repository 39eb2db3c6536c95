#!/usr/bin/python
"""What preflight needs to know of a host and no fact says."""

import re
import socket
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: preflight_report
short_description: Tells who listens on which ports, which names resolve, and what is there already
description: Changes nothing. The action plugin of the same name adds how far the clock is off.
options:
  ports: {description: Ports to look at., type: list, elements: int, default: []}
  names: {description: Names that must resolve., type: list, elements: str, default: []}
  postgresql_version: {description: The version whose cluster `main` would be used., type: str, required: true}
  postgresql_database: {description: The database that may be in it., type: str, required: true}
"""

_LISTENING = "0A"
# Identifiers of databases below this one are PostgreSQL's own.
_FIRST_OWN_DATABASE = 16384
_NAMES = "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')"


def listeners(ports):
    """Who listens on `ports`: by port, the systemd unit or the name of the process."""
    inodes = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _lines(table)[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == _LISTENING and port in ports:
                inodes[fields[9]] = port
    found = {}
    for process in Path("/proc").glob("[0-9]*") if inodes else []:
        for inode in inodes.keys() & _sockets(process):
            found[str(inodes[inode])] = _who(process)
    return {**{str(port): "an unknown process" for port in inodes.values()}, **found}


def _sockets(process):
    try:
        targets = [str(handle.readlink()) for handle in (process / "fd").iterdir()]
    except OSError:  # it has ended
        return set()
    return {target[len("socket:[") : -1] for target in targets if target.startswith("socket:[")}


def _who(process):
    unit = re.search(r"([^/]+\.service)$", "\n".join(_lines(process / "cgroup")), re.MULTILINE)
    return unit[1] if unit else (_lines(process / "comm") or ["an unknown process"])[0]


def unresolved(names):
    """Those of `names` that this host cannot resolve."""
    failed = []
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            failed.append(name)
    return failed


def has_other_databases(module):
    """Whether the cluster `main` is there, is not configured by us, and holds databases beside ours.

    Ours may be there without our configuration: it was decommissioned, and the data stayed.
    """
    version, own = module.params["postgresql_version"], module.params["postgresql_database"]
    if Path(f"/etc/postgresql/{version}/main/conf.d/metabuilder.conf").exists():
        return False
    databases = Path(f"/var/lib/postgresql/{version}/main/base")
    if not databases.is_dir() or all(int(folder.name) < _FIRST_OWN_DATABASE for folder in databases.glob("[0-9]*")):
        return False
    command = ["runuser", "--user", "postgres", "--", "psql", "--cluster", f"{version}/main", "-XAtc", _NAMES]
    failed, names, _ = module.run_command(command, cwd="/")
    return bool(failed) or names.split() != [own]


def _lines(path):
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def main():
    """What Ansible runs."""
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "list", "elements": "int", "default": []},
            "names": {"type": "list", "elements": "str", "default": []},
            "postgresql_version": {"type": "str", "required": True},
            "postgresql_database": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    module.exit_json(
        changed=False,
        has_systemd=Path("/run/systemd/system").is_dir(),
        listeners=listeners(module.params["ports"]),
        unresolved=unresolved(module.params["names"]),
        has_cluster=Path(f"/etc/postgresql/{module.params['postgresql_version']}/main").is_dir(),
        has_other_databases=has_other_databases(module),
    )


if __name__ == "__main__":
    main()
