"""What manage/on_host.py makes of systemd's words. It runs without any package, as on the hosts of Redis."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from manage.on_host import certificate
from native.state import ROOT
from tests.support.certificates import Authority

SYSTEMCTL = r"""#!/bin/sh
case "$*" in
    *systemd-journal-upload*) echo active ;;
    "show multi-user.target"*) echo "ssh.service celery-worker@sending.service celery-beat.service" ;;
    list-units*) echo "celery-worker.service loaded active running A worker"
        echo "● redis-server@old.service not-found inactive dead redis-server@old.service" ;;
    "show --property"*) shift 2
        for unit; do
            state=active; [ $unit = celery-beat.service ] && state=failed
            printf 'Id=%s\nActiveState=%s\nSubState=running\nMainPID=7\nMemoryCurrent=[not set]\n' $unit $state
            printf 'NRestarts=2\nActiveEnterTimestampMonotonic=1000000\nRestart=always\nUnitFileState=enabled\n\n'
        done ;;
    *) echo "$*" >&2; exit 4 ;;
esac
"""
# As of Debian 12's apt.
APT_GET = r"""#!/bin/sh
echo "$*" | grep -q -- --simulate || exit 4
echo 'Inst libssl3 [3.0.15-1~deb12u1] (3.0.16-1~deb12u1 Debian-Security:12/stable-security [amd64])'
echo 'Inst tzdata [2024b-0+deb12u1] (2025b-0+deb12u2 Debian:12.11/stable [all])'
echo 'Conf libssl3 (3.0.16-1~deb12u1 Debian-Security:12/stable-security [amd64])'
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    for name, text in (("systemctl", SYSTEMCTL), ("apt-get", APT_GET)):
        program = tmp_path / name
        program.write_text(text)
        program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def run(path: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", "-S", "-", *words]
    program = (ROOT / "manage/on_host.py").read_text()
    return subprocess.run(command, input=program, env={"PATH": path}, capture_output=True, text=True, check=False)


def test_units_that_are_enabled_or_loaded_are_seen(path: str) -> None:
    found: dict[str, Any] = json.loads(run(path, "state").stdout)
    states = {unit["unit"]: (unit["state"], unit["pid"], unit["restarts"]) for unit in found["units"]}
    assert states == {
        "celery-beat.service": ("failed", 7, 2),
        "celery-worker.service": ("active", 7, 2),
        "celery-worker@sending.service": ("active", 7, 2),
    }
    assert {unit["memory_bytes"] for unit in found["units"]} == {None}
    assert {(unit["restart_policy"], unit["starts_with_host"]) for unit in found["units"]} == {("always", True)}
    assert [disk["place"] for disk in found["disks"]][:1] == ["/"]
    assert all(0 <= disk["bytes_used"] <= 1 and 0 <= disk["files_used"] <= 1 for disk in found["disks"])


def test_what_is_asked_before_people_rely_on_a_host(path: str, tmp_path: Path) -> None:
    found: dict[str, Any] = json.loads(run(path, "readiness").stdout)
    assert len(found["units"]) == 3
    assert (found["updates"]["waiting"], found["updates"]["security"]) == (2, 1)
    assert found["journals"]["sends"] is True
    assert found["backup"]["path"] is None
    # The newest of the files is shown
    for number, name in enumerate(("new.dump", "old.dump", "newer.sql")):
        (file := tmp_path / name).write_text("x" * number)
        os.utime(file, (0, {"new.dump": 50, "old.dump": 40}.get(name, 60)))
    found = json.loads(run(path, "readiness", f"{tmp_path}/*.dump").stdout)
    assert found["backup"] == {"path": f"{tmp_path}/new.dump", "written": 50, "bytes": 0}


def test_units_of_a_service_are_changed_and_named(path: str) -> None:
    done = run(path, "restart", "worker")
    assert json.loads(done.stdout) == ["celery-worker.service", "celery-worker@sending.service"]
    assert (done.returncode, done.stderr) == (4, "restart celery-worker.service celery-worker@sending.service\n")


@pytest.mark.parametrize("command", ["start", "restart", "stop"])
def test_a_unit_that_was_disabled_is_stopped_and_never_started_unless_it_is_named(path: str, command: str) -> None:
    enabled = ["celery-beat.service", "celery-worker@sending.service"]
    disabled = ["celery-worker.service"]
    wanted = sorted(enabled + disabled) if command == "stop" else enabled
    assert json.loads(run(path, command).stdout) == wanted


def test_a_host_without_such_units_is_left_alone(path: str) -> None:
    done = run(path, "restart", "flower")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_end_of_a_certificate_is_read_and_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    path = Path(Authority(tmp_path).certificate)
    ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    assert certificate(path) == {"path": str(path), "ends": ends}
    (broken := tmp_path / "broken.crt").write_text("no certificate")
    assert certificate(broken)["ends"] is None
