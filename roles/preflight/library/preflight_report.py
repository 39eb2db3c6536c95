#!/usr/bin/python
"""What preflight needs to know of a host and no fact says."""

import contextlib
import os
import re
import socket
import ssl
import stat
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: preflight_report
short_description: Tells which ports are taken, which names resolve, what is there already, and what room there is
description: Changes nothing. The action plugin of the same name adds how far the clock is off.
options:
  ports: {description: Ports to look at., type: list, elements: int, default: []}
  names: {description: Names that must resolve., type: list, elements: str, default: []}
  postgresql_version: {description: The version whose cluster `main` would be used., type: str, required: true}
  postgresql_database: {description: The database that may be in it., type: str, required: true}
  folders: {description: Folders to look for room at., type: list, elements: str, default: []}
  open: {description: Paths that all users must get at., type: list, elements: str, default: []}
  servers:
    description: Servers that must let this host in.
    type: list
    elements: dict
    default: []
    options:
      variable: {description: The variable that says which host it is., type: str}
      server: {description: The host of the inventory that it is, if it is one., type: str}
      host: {description: Its address., type: str}
      port: {description: Its port., type: int}
      tls: {description: Whether it is to speak TLS., type: bool}
      role: {description: "Of PostgreSQL: the role that connects.", type: str}
"""

_LISTENING = "0A"
# Identifiers of databases below this one are PostgreSQL's own.
_FIRST_OWN_DATABASE = 16384
_MEGABYTE = 1024**2
_CONNECT_SECONDS = 4
# Of PostgreSQL's protocol (Message Formats in its documentation): the request for TLS, and version 3.0.
_TLS_REQUEST, _PROTOCOL = 80877103, 3 << 16
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
    targets = []
    with contextlib.suppress(OSError):  # it has ended
        for handle in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # it was closed meanwhile, as servers do with connections
                targets.append(str(handle.readlink()))
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


def disks(folders):
    """What is free where each folder is, or would be made; no inodes where the file system has no fixed number."""
    return {folder: _disk(_nearest(Path(folder))) for folder in folders}


def _disk(place):
    device = place.stat().st_dev
    mount = place
    while mount.parent.stat().st_dev == device and mount != mount.parent:
        mount = mount.parent
    free = os.statvfs(place)
    return {
        "device": device,
        "mount": str(mount),
        "free_mb": free.f_bavail * free.f_frsize // _MEGABYTE,
        "free_inodes": free.f_favail if free.f_files else None,
    }


def _nearest(path):
    return path.resolve() if path.exists() else _nearest(path.parent)


def closed(paths):
    """The modes of those of `paths`, and of the folders above them, that not everybody can enter or read."""
    there = {place for path in map(Path, paths) if path.exists() for place in (path, *path.parents)}
    modes = {str(place): place.stat().st_mode for place in there}
    needed = {place: stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH for place, mode in modes.items()}
    return {place: stat.filemode(modes[place]) for place in sorted(modes) if not modes[place] & needed[place]}


def python_missing():
    """The version of this Python, if Debian's place for it is empty."""
    version = "{}.{}".format(*sys.version_info)
    return "" if Path(f"/usr/bin/python{version}").exists() else version


def refused(servers, database):
    """Those of `servers` that do not let this host in, and why."""
    with ThreadPoolExecutor(len(servers) or 1) as pool:
        reasons = pool.map(lambda server: _refusal(server, database), servers)
        return [{**server, "why": why} for server, why in zip(servers, reasons, strict=True) if why]


def _refusal(server, database):
    try:
        with socket.create_connection((server["host"], server["port"]), _CONNECT_SECONDS) as connection:
            if server["role"]:
                return _refusal_of_postgresql(connection, server, database)
            if server["tls"]:
                _encrypted(connection).close()
    except (ssl.SSLError, ConnectionResetError):
        # A server without TLS answers in its own words, or hangs up.
        return "it does not speak TLS yet"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _refusal_of_postgresql(connection, server, database):
    """What PostgreSQL says to a client that has not yet shown a password."""
    if server["tls"]:
        connection.sendall(struct.pack("!ii", 8, _TLS_REQUEST))
        if connection.recv(1) != b"S":
            return "it does not speak TLS yet"
        connection = _encrypted(connection)
    with connection:
        words = f"user\0{server['role']}\0database\0{database}\0\0".encode()
        connection.sendall(struct.pack("!ii", len(words) + 8, _PROTOCOL) + words)
        answer = connection.recv(4096)
    # An error has fields, each a letter and a text; anything else asks for the password.
    fields = {field[:1]: field[1:].decode(errors="replace") for field in answer[5:].split(b"\0")}
    return fields.get(b"M", "") if answer[:1] == b"E" and fields.get(b"C") == "28000" else ""


def _encrypted(connection):
    # Whose certificate it is will be seen when the application connects.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def left_behind(version):
    """The versions whose cluster `main` we configured and still starts, where that of `version` is not ours yet.

    The data is there, then: pg_upgradecluster leaves a cluster that it has moved so that it does not start by itself.
    """
    etc = Path("/etc/postgresql")
    own = {path.parts[3]: path.parents[1] for path in etc.glob("*/main/conf.d/metabuilder.conf")}
    return [] if version in own else sorted(old for old, main in own.items() if "auto" in _lines(main / "start.conf"))


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
            "folders": {"type": "list", "elements": "str", "default": []},
            "open": {"type": "list", "elements": "str", "default": []},
            "servers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    **{key: {"type": "str"} for key in ("variable", "server", "host", "role")},
                    "port": {"type": "int"},
                    "tls": {"type": "bool"},
                },
            },
        },
        supports_check_mode=True,
    )
    module.exit_json(
        changed=False,
        has_systemd=Path("/run/systemd/system").is_dir(),
        listeners=listeners(module.params["ports"]),
        unresolved=unresolved(module.params["names"]),
        has_cluster=Path(f"/etc/postgresql/{module.params['postgresql_version']}/main").is_dir(),
        left_behind=left_behind(module.params["postgresql_version"]),
        has_other_databases=has_other_databases(module),
        disks=disks(module.params["folders"]),
        closed=closed(module.params["open"]),
        python_missing=python_missing(),
        refused=refused(module.params["servers"], module.params["postgresql_database"]),
    )


if __name__ == "__main__":
    main()
