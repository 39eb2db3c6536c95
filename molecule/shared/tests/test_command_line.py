"""`./manage.sh -i INVENTORY VERB` for the deployed site, and `metabuilder` on its hosts."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.site import ROOT, Site, wait_active
from tests.support.worker import wait_until


@pytest.fixture(autouse=True)
def _several_hosts(site: Site) -> None:
    if len(site.names) == 1:
        pytest.skip("all is on one host: the verbs for several are tried on the cluster")


Verb = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def verb(site: Site) -> Verb:
    inventories = [part.replace("--inventory=", "-i") for part in site.inventories]

    def run(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "manage", *inventories, *arguments]
        return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)

    return run


def findings(verb: Verb) -> tuple[int, dict[tuple[str | None, str], dict[str, Any]]]:
    """The exit code of `health`, and what is not well by host and component."""
    done = verb("health", "--json")
    rows = json.loads(done.stdout)
    assert len(rows) > 10, done.stderr
    assert {"certificate", "clock", "disk", "units"} <= {row["component"].partition(" ")[0] for row in rows}
    return done.returncode, {(row["host"], row["component"]): row for row in rows if row["warns"] or not row["ok"]}


def test_units_and_journals_of_all_hosts_are_seen(site: Site, verb: Verb) -> None:
    units = json.loads(verb("ps", "--json").stdout)
    assert sorted(units) == site.names
    seen = {(host, unit["unit"], unit["state"]) for host, found in units.items() for unit in found}
    for group, unit in (("celery_workers", "celery-worker"), ("celery_beat", "celery-beat")):
        assert [host for host in site.group(group) if (host, f"{unit}.service", "active") not in seen] == []
    assert any(unit.startswith("redis-server@") for _, unit, _ in seen)
    assert any(unit.startswith("postgresql@") for _, unit, _ in seen)
    lines = verb("logs", "worker", "-n", "3").stdout.splitlines()
    assert lines
    assert {line.split()[1] for line in lines} <= set(site.group("celery_workers"))


def test_a_worker_answers_for_the_site(site: Site, verb: Verb) -> None:
    done = verb("queue:status", "--json")
    [(host, queues)] = json.loads(done.stdout).items()
    assert host in site.group("celery_workers")
    assert "sync" in {queue["queue"] for queue in queues}
    given = verb("redis-cli", stdin="PING\n")
    assert (given.returncode, "PONG" in given.stdout) == (0, True), given.stderr
    given = verb("psql", "-At", "-c", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert (given.returncode, given.stdout.split()[-1:]) == (0, ["t"]), given.stderr
    given = verb("psql", "-c", "CREATE TEMPORARY TABLE planted (n int)")
    assert (given.returncode, "read-only transaction" in given.stderr) == (1, True), given.stderr


def test_the_checklist_knows_the_inventory_the_hosts_and_what_health_says(site: Site, verb: Verb) -> None:
    done = verb("preflight", "--json")
    found = {row["item"]: row for row in json.loads(done.stdout)}
    well = (
        "hosts",
        "ground",
        "releases",
        "restarts",
        "disks",
        "certificates",
        "tls",
        "spare_worker",
        "redis_instances",
        *(["log_collection"] if site.group("log_collection") else []),
    )
    assert [found[name] for name in well if found[name]["verdict"] != "ok"] == [], done.stderr
    if monitoring := site.group("monitoring"):
        assert found["alerts"]["detail"] == f"{monitoring[0]} tells a webhook; nobody has noted it"
    # The secrets of these hosts are samples in plain text, and nobody has restored a backup.
    assert (done.returncode, found["vault"]["verdict"], found["backup"]["verdict"]) == (1, "not ok", "not ok")


def test_health_finds_what_is_broken_and_up_mends_it(site: Site, verb: Verb) -> None:
    name = site.group("celery_workers")[-1]
    host = site.host(name)

    def all_is_well() -> bool:
        """Of that host and of the workers; a busy machine may be late with a canary."""
        return not {each for each in findings(verb)[1] if each[0] == name or each[1] == "consuming"}

    wait_until(all_is_well, "something is not well")
    release = host.check_output("readlink /opt/metabuilder/current")
    try:
        host.check_output(
            f"set -e; cp -al {release} /opt/metabuilder/releases/another;"
            " ln -sfn /opt/metabuilder/releases/another /opt/metabuilder/current;"
            " mount -t tmpfs -o size=1m tmpfs /var/lib/metabuilder;"
            " ! head -c 2M /dev/zero > /var/lib/metabuilder/full;"
            " metabuilder down worker"
        )
        code, found = findings(verb)
    finally:
        host.check_output(
            "umount /var/lib/metabuilder;"
            f" ln -sfn {release} /opt/metabuilder/current && rm -r /opt/metabuilder/releases/another"
        )
    assert code == 1
    assert "is stopped" in found[name, "unit celery-worker"]["detail"]
    assert "100% of its bytes" in found[name, "disk /var/lib/metabuilder"]["detail"]
    assert f"{name}: another" in found[None, "releases"]["detail"]
    done = verb("up", "worker")
    assert (done.returncode, f"{name}: celery-worker started" in done.stderr) == (0, True), done.stderr
    wait_active(host, "celery-worker.service")
