"""systemd restarts units of ours that hang, and leaves those alone that only have much to do.

On one host, which is enough and fast. BROKER_AWAY_SECONDS=600 has the broker be away for ten minutes.
"""

import json
import os
import time
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from tests.support.site import TENANT, USER, Site, main_pid, run_code, wait_active

WORKER, POOL = "celery-worker.service", "celery-worker@sending.service"
UNITS = (WORKER, "celery-beat.service", "celery-flower.service", "metabuilder-exporter.service", POOL)
SECONDS = 6  # beat looks at its schedule every two seconds
# Longer than the watchdog's time of the units as they are.
AWAY_SECONDS = int(os.environ.get("BROKER_AWAY_SECONDS", "70"))
# Until the worker has done a canary, with a second for the canary's own way.
MAX_SECONDS = 6
_SILENT_PORT = 10143
_ACCOUNTS = ["silent-1", "silent-2"]  # as many as the worker has processes
_FOLDERS = " ".join(f"/run/systemd/system/{unit}.d" for unit in UNITS)


@pytest.fixture(scope="module")
def usual(site: Site) -> Host:
    """The host, with the watchdog that it has."""
    if len(site.names) > 1:
        pytest.skip("covered by the scenario with one host")
    return site.host(site.names[0])


@pytest.fixture(scope="module")
def one(usual: Host) -> Iterator[Host]:
    """The host, with a watchdog that is quicker than usual."""
    host, reload = usual, f"systemctl daemon-reload && systemctl restart {' '.join(UNITS)}"
    quick = f"printf '[Service]\\nWatchdogSec={SECONDS}\\nRestartSec=1\\n' >$folder/quick.conf"
    host.check_output(f"for folder in {_FOLDERS}; do mkdir -p $folder && {quick}; done && {reload}")
    yield host
    host.check_output(f"rm -r {_FOLDERS} && {reload}")


@pytest.fixture
def busy(site: Site, one: Host) -> Iterator[None]:
    """Each process of the worker waits for a mail server that says nothing."""
    server = f"import socket, time; s = socket.create_server(('', {_SILENT_PORT})); time.sleep(300)"
    one.check_output(f'systemd-run --quiet --unit=silent-server python3 -c "{server}"')
    fields = f"user, f'{{user}}@example.org', {site.names[0]!r}, {_SILENT_PORT}, 'none', user, 'sample'"
    run_code(
        one,
        "from tasks.celery_app import sync_emails\n"
        "from tasks.storage.accounts.rows import NewAccount, add_account\n"
        f"for user in {_ACCOUNTS!r}:\n"
        f"    account_id = add_account({TENANT!r}, {USER!r}, NewAccount({fields}))\n"
        f"    sync_emails.delay(account_id, {TENANT!r}, {USER!r})\n"
        "print('null')\n",
    )
    _wait_for_connections(one)
    yield
    one.check_output("systemctl stop silent-server")
    run_code(
        one,
        "from tasks.storage.accounts.rows import find_account, remove_account\n"
        f"for user in {_ACCOUNTS!r}: remove_account(find_account({TENANT!r}, user))\n"
        "print('null')\n",
    )


def _connections(host: Host) -> int:
    shown = host.check_output(f"ss --no-header --tcp --numeric state established dport = :{_SILENT_PORT}")
    return len(shown.splitlines())


def _wait_for_connections(host: Host) -> None:
    deadline = time.monotonic() + 30
    while _connections(host) < len(_ACCOUNTS):
        assert time.monotonic() < deadline, "the processes are not busy"
        time.sleep(0.2)


def test_a_broker_that_is_away_restarts_nothing_and_is_used_again_at_once(usual: Host) -> None:
    nodes = [worker["node"] for worker in json.loads(usual.check_output("metabuilder worker:info --json"))]
    servers = usual.check_output("systemctl list-units --plain --no-legend 'redis-server@*' | cut -d' ' -f1")
    before = {unit: main_pid(usual, unit) for unit in UNITS}
    again = f"systemd-run --quiet --on-active={AWAY_SECONDS} --timer-property=AccuracySec=100ms systemctl start"

    usual.check_output(f"{again} {' '.join(servers.split())} && systemctl stop {' '.join(servers.split())}")
    seconds = run_code(
        usual,
        "import json, time\n"
        "from redis import Redis\nfrom redis.exceptions import RedisError\n"
        "from tasks.celery_app import celery_app\n"
        "from tasks.monitoring.canary import consumption_of_workers\n"
        "from tasks.settings import get_settings\n"
        "client = Redis.from_url(get_settings().redis.broker_url, socket_connect_timeout=1)\n"
        "away = 0\n"
        "while True:\n"
        "    try: client.ping()\n"
        "    except RedisError: away += 1; time.sleep(0.1)\n"
        "    else: break\n"
        "assert away, 'the broker was not away'\n"
        f"found = consumption_of_workers(celery_app, {nodes!r}, 30, 30)\n"
        "print(json.dumps([one.seconds for one in found]))\n",
    )
    assert all(took is not None and took < MAX_SECONDS for took in seconds), seconds
    assert {unit: main_pid(usual, unit) for unit in UNITS} == before


def test_what_hangs_is_restarted(one: Host) -> None:
    """The main process of each unit, or all processes of a worker's pool."""
    before = {unit: main_pid(one, unit) for unit in UNITS}
    now = one.check_output("date +%s")
    stopped = " ".join(str(pid) for unit, pid in before.items() if unit != POOL)

    one.check_output(f"kill -STOP {stopped} && pkill -STOP -P {before[POOL]}")

    for unit, pid in before.items():
        wait_active(one, unit, not_pid=pid)
    said = one.check_output(f"journalctl --no-pager --since=@{now} -u 'celery-*' -u metabuilder-exporter")
    for unit in UNITS:
        assert f"{unit}: Watchdog " in said
    assert "this worker has itself restarted" in said
    assert said.count("Fatal Python error: Aborted") == len(UNITS)  # and where each stood


@pytest.mark.usefixtures("busy")
def test_a_worker_whose_processes_are_all_at_work_is_left_alone(one: Host) -> None:
    before = main_pid(one, WORKER)
    time.sleep(2 * SECONDS)
    assert _connections(one) == len(_ACCOUNTS)
    assert main_pid(one, WORKER) == before
