"""Preflight says what a host lacks before anything is brought to it: room, open folders, a Python, open servers."""

import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.unit.roles.plugins import load

ground = load("preflight/filter_plugins/preflight_ground.py")
report = load("preflight/library/preflight_report.py")

SETTINGS = {
    "free_mb": {"/opt/metabuilder": 400, "/var/tmp": 100},
    "free_inodes": 20_000,
    "control_free_mb": 0,
    "limit": "one",
    "command": "ansible-playbook -i inventories/mail site.yml",
}
REDIS = {"variable": "site_redis_host", "server": "db", "host": "10.0.0.5", "port": 6379, "why": "timed out"}
POSTGRESQL = {"variable": "site_postgresql_host", "server": "db", "host": "10.0.0.5", "port": 5432, "why": "no entry"}


def disk(**changed: Any) -> dict[str, Any]:
    """What is free on a file system with room for everything, but for what is changed."""
    return {"device": 1, "mount": "/", "free_mb": 9000, "free_inodes": 900_000, **changed}


def findings(**reported: Any) -> list[str]:
    """On a host with such a report."""
    hostvars = {"one": {"__preflight_report": reported}}
    return list(ground.preflight_ground(hostvars, ["one"], SETTINGS))


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    no_fixed_number = disk(device=2, mount="/var/tmp", free_inodes=None)
    assert findings(disks={"/opt/metabuilder": disk(), "/var/tmp": no_fixed_number}, closed={}, refused=[]) == []
    assert findings() == []


@pytest.mark.parametrize(
    ("reported", "said"),
    [
        pytest.param(
            {"disks": {"/opt/metabuilder": disk(free_mb=399)}},
            ["one: preflight_free_mb: 399 MB are free on /, and 400 are needed", "/opt/metabuilder 400", "make room"],
            id="disk",
        ),
        pytest.param(
            {"disks": {"/opt/metabuilder": disk(free_mb=450), "/var/tmp": disk(free_mb=450)}},
            ["450 MB are free on /, and 500 are needed", "/opt/metabuilder 400, /var/tmp 100"],
            id="needs on one file system add up",
        ),
        pytest.param(
            {"disks": {"/opt/metabuilder": disk(), "/var/tmp": disk(device=2, mount="/var", free_mb=0)}},
            ["0 MB are free on /var, and 100 are needed", "(/var/tmp 100)"],
            id="another file system",
        ),
        pytest.param(
            {"disks": {"/opt/metabuilder": disk(free_inodes=12)}},
            ["preflight_free_inodes: 12 inodes are free on /, and 20000 are needed"],
            id="inodes",
        ),
        pytest.param(
            {"closed": {"/opt": "drwx------"}},
            ["/opt has the mode rwx------", "enter it: chmod o+rx /opt"],
            id="folder",
        ),
        pytest.param(
            {"closed": {"/etc/hosts": "-rw-r-----"}}, ["/etc/hosts", "read it: chmod o+r /etc/hosts"], id="file"
        ),
        pytest.param(
            {"python_missing": "3.12"},
            ["ansible_python_interpreter is a Python 3.12", "no /usr/bin/python3.12", "leave the variable out"],
            id="Python",
        ),
        pytest.param(
            {"refused": [REDIS, REDIS, POSTGRESQL]},
            [
                "one: db (port 6379: timed out), db (port 5432: no entry) does not let this host in",
                "ansible-playbook -i inventories/mail site.yml --limit 'one,db'",
            ],
            id="firewall of another host",
        ),
        pytest.param(
            {"refused": [{**REDIS, "server": ""}]},
            ["site_redis_host 10.0.0.5:6379 does not let this host in (timed out)", "give this host access there"],
            id="server of somebody else",
        ),
    ],
)
def test_a_finding_says_what_is_missing_and_what_to_do(reported: dict[str, Any], said: list[str]) -> None:
    (found,) = findings(**reported)
    for words in said:
        assert words in found


def test_the_control_machine_needs_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "made" / "yet"))
    assert list(ground.control_machine(1)) == []
    (found,) = ground.control_machine(10**9)
    assert found.startswith("control machine: preflight_control_free_mb: ")
    assert f"are free for {tmp_path}/not/made/yet/metabuilder" in found
    assert "XDG_CACHE_HOME" in found


def test_a_host_reports_room_also_for_what_is_still_to_be_made(tmp_path: Path) -> None:
    (found,) = report.disks([str(tmp_path / "not" / "made" / "yet")]).values()
    assert found["device"] == tmp_path.stat().st_dev
    assert tmp_path.is_relative_to(found["mount"])
    assert found["free_mb"] > 0


def test_a_host_reports_what_others_cannot_get_at(tmp_path: Path) -> None:
    shut, file = tmp_path / "shut", tmp_path / "shut" / "file"
    shut.mkdir(mode=0o700)
    file.touch(mode=0o644)
    closed = report.closed([str(file), str(tmp_path / "none")])
    assert closed[str(shut)] == "drwx------"
    assert str(file) not in closed
    file.chmod(0o640)
    assert report.closed([str(file)])[str(file)] == "-rw-r-----"


def test_a_host_reports_servers_that_do_not_let_it_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain, socket.create_server(("127.0.0.1", 0)) as shut:
        open_port, shut_port = plain.getsockname()[1], shut.getsockname()[1]
        shut.close()
        threading.Thread(target=_greet, args=(plain, 2)).start()
        servers = [
            {"variable": "open", "host": "127.0.0.1", "port": open_port, "tls": False, "role": ""},
            {"variable": "without TLS", "host": "127.0.0.1", "port": open_port, "tls": True, "role": ""},
            {"variable": "shut", "host": "127.0.0.1", "port": shut_port, "tls": False, "role": ""},
        ]
        refused = {server["variable"]: server["why"] for server in report.refused(servers, "metabuilder")}
    assert refused == {"without TLS": "it does not speak TLS yet", "shut": "Connection refused"}


def _greet(server: socket.socket, times: int) -> None:
    """As a server that knows nothing of TLS."""
    for _ in range(times):
        connection, _address = server.accept()
        # Whoever only looks has gone by now.
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"-ERR unknown command\r\n")
            while connection.recv(1024):
                pass


CHURNS = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    many = [socket.socket() for _ in range(50)]
    for one in many: one.close()
"""


def test_who_listens_is_known_while_its_other_sockets_come_and_go() -> None:
    with subprocess.Popen([sys.executable, "-c", CHURNS], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            assert "an unknown process" not in {report.listeners({port})[str(port)] for _ in range(100)}
        finally:
            server.kill()
