"""celery-worker.service"""

import json
import signal
import time

from testinfra.host import Host

from tests.support.site import ENVIRONMENTS, Site, journal, main_pid, run_code, wait_active
from tests.support.worker import wait_until

UNIT = "celery-worker.service"


def queues_of(worker: Host, node: str) -> list[str]:
    """What a worker answers that it consumes."""
    code = (
        "import json; from tasks.celery_app import celery_app\n"
        f"asked = celery_app.control.inspect([{node!r}], timeout=120)  # which ends with the answer\n"
        f"print(json.dumps([queue['name'] for queue in asked.active_queues()[{node!r}]]))"
    )
    return list(run_code(worker, code))


def test_it_runs_and_starts_with_the_host(worker: Host) -> None:
    assert worker.service(UNIT).is_running
    assert worker.service(UNIT).is_enabled


def test_systemd_waits_until_it_consumes(worker: Host) -> None:
    assert worker.check_output(f"systemctl show -p Type --value {UNIT}") == "notify"
    assert "sync" in queues_of(worker, f"worker@{worker.check_output('hostname')}")


def test_pools_consume_their_own_queues_beside_it(site: Site, worker: Host) -> None:
    name = worker.check_output("hostname")
    shown = worker.check_output("systemctl list-units --plain --no-legend --state=running 'celery-worker*'")
    pools = site.variable(name, "celery_worker_pools", [])
    assert {line.split()[0] for line in shown.splitlines()} == {
        UNIT,
        *(f"celery-worker@{pool['name']}.service" for pool in pools),
    }
    for pool in pools:
        node = f"{pool['name']}@{name}"
        # Each worker has a queue of its own as well.
        assert queues_of(worker, node) == [*pool["queues"], f"metabuilder:canary:{node}"]


def test_it_drains_and_is_limited(worker: Host) -> None:
    shown = worker.check_output(f"systemctl show -p TimeoutStopUSec,Restart,MemoryMax,OOMPolicy,TasksMax {UNIT}")
    limits = dict(line.split("=", 1) for line in shown.splitlines())
    assert (limits["Restart"], limits["OOMPolicy"]) == ("always", "continue")
    assert "infinity" not in (limits["MemoryMax"], limits["TasksMax"])
    # Longer than the longest task: 300 s by default.
    assert limits["TimeoutStopUSec"].startswith(("5min", "6min"))


def test_it_does_not_run_as_root(worker: Host) -> None:
    assert worker.check_output(f"ps -o user= -p {main_pid(worker, UNIT)}") == "celery"


def test_its_journal_reads_well(worker: Host) -> None:
    assert "celery-worker[" in journal(worker, "celery-worker", 200)


def test_the_journal_takes_more_lines_of_it_than_of_other_units(worker: Host) -> None:
    limits = worker.check_output(f"systemctl show -p LogRateLimitIntervalUSec,LogRateLimitBurst {UNIT}")
    assert {*limits.splitlines()} == {"LogRateLimitIntervalUSec=30s", "LogRateLimitBurst=200000"}


def test_the_journal_finds_the_lines_of_an_account(site: Site) -> None:
    workers = [site.host(name) for name in site.group("celery_workers")]
    account = f"nobody-{time.time_ns()}"
    code = (
        "import json; from tasks.celery_app import sync_emails\n"
        f"print(json.dumps(sync_emails.delay({account!r}, 'no-tenant', 'nobody').id))"
    )
    task_id = run_code(workers[0], code)

    def found() -> list[dict[str, str]]:
        command = f"journalctl --no-pager -o json METABUILDER_ACCOUNT={account}"
        return [json.loads(line) for host in workers for line in host.check_output(command).splitlines()]

    wait_until(lambda: any("METABUILDER_DURATION" in entry for entry in found()), "the task does not end", 100)
    begun, ended = found()
    assert begun["METABUILDER_TASK_ID"] == ended["METABUILDER_TASK_ID"] == task_id
    assert begun["_SYSTEMD_UNIT"] == f"{begun['SYSLOG_IDENTIFIER']}.service"
    # The whole traceback is in the entry that says how the task ended.
    assert (begun["PRIORITY"], ended["PRIORITY"]) == ("6", "3")
    assert "NotFoundError" in ended["MESSAGE"]
    assert "\n    Traceback" in ended["MESSAGE"]


def test_it_comes_back_when_killed(worker: Host) -> None:
    before = main_pid(worker, UNIT)
    worker.check_output(f"systemctl kill -s {signal.SIGKILL:d} {UNIT}")
    wait_active(worker, UNIT, not_pid=before)


def test_its_environment_is_for_its_group_only(worker: Host) -> None:
    for file in map(worker.file, ENVIRONMENTS):
        assert (file.user, file.group, file.mode) == ("root", "celery", 0o640)


def test_releases_have_a_link_to_the_current_one(worker: Host) -> None:
    current = worker.file("/opt/metabuilder/current")
    assert current.is_symlink
    assert current.linked_to.startswith("/opt/metabuilder/releases/")
