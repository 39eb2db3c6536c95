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
from tests.support.worker import wait_until

WORKER, POOL = "celery-worker.service", "celery-worker@sending.service"
# Those that say themselves that they are alive, and those that another process asks.
OF_PYTHON = (WORKER, "celery-beat.service", "celery-flower.service", "metabuilder-exporter.service", POOL)
UNITS = (*OF_PYTHON, "metabuilder-adminer.service", "metabuilder-redis-commander.service")
SECONDS = 10  # enough for a busy machine: beat looks at its schedule every two seconds
# Longer than the watchdog's time of the units as they are.
AWAY_SECONDS = int(os.environ.get("BROKER_AWAY_SECONDS", "70"))
# Between two of a worker's tries to reach the broker, of which most pass after one second. Celery's own pauses grow.
MAX_PAUSE = 5
# Until a worker has done a canary after that. On a quiet machine it takes two seconds
# (tests/integration/faults/test_watchdog.py), on a busy one as long as others let it wait.
MAX_SECONDS = 120
_SILENT_PORT = 10143
_ACCOUNTS = ["silent-1", "silent-2"]  # as many as the worker has processes
_FOLDERS = " ".join(f"/run/systemd/system/{unit}.d" for unit in UNITS)
_DISK = "/var/lib/metabuilder"  # where units of ours run


@pytest.fixture(scope="module")
def usual(site: Site) -> Host:
    """The host, with the watchdog that it has."""
    if len(site.names) > 1:
        pytest.skip("covered by the scenario with one host")
    return site.host(site.names[0])


@pytest.fixture(scope="module")
def one(usual: Host) -> Iterator[Host]:
    """The host, with a watchdog that is quicker than usual, and a small disk for the units of ours."""
    host, reload = usual, f"systemctl daemon-reload && systemctl restart {' '.join(UNITS)}"
    quick = f"printf '[Service]\\nWatchdogSec={SECONDS}\\nRestartSec=1\\n' >$folder/quick.conf"
    host.check_output(f"for folder in {_FOLDERS}; do mkdir -p $folder && {quick}; done")
    host.check_output(f"mount -t tmpfs -o size=4m tmpfs {_DISK} && {reload}")
    yield host
    host.check_output(f"umount --lazy {_DISK}; rm -r {_FOLDERS} && {reload}")


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
    wait_until(lambda: _connections(one) == len(_ACCOUNTS), "the processes are not busy", 60)
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


@pytest.fixture
def full_disk(one: Host) -> Iterator[None]:
    """The disk of the units of ours takes no byte more."""
    one.check_output(f"! head -c 8M /dev/zero 2>/dev/null >{_DISK}/full")
    yield
    one.check_output(f"rm {_DISK}/full")


def test_a_broker_that_is_away_restarts_nothing_and_is_used_again_at_once(usual: Host) -> None:
    nodes = [worker["node"] for worker in json.loads(usual.check_output("metabuilder worker:info --json"))]
    servers = usual.check_output("systemctl list-units --plain --no-legend 'redis-server@*' | cut -d' ' -f1")
    before = {unit: main_pid(usual, unit) for unit in UNITS}
    again = f"systemd-run --quiet --on-active={AWAY_SECONDS} --timer-property=AccuracySec=100ms systemctl start"

    usual.check_output(f"{again} {' '.join(servers.split())} && systemctl stop {' '.join(servers.split())}")
    pauses, seconds = run_code(
        usual,
        "import itertools, json, statistics, subprocess, time\n"
        "from redis import Redis\nfrom redis.exceptions import RedisError\n"
        "from tasks.celery_app import celery_app\n"
        "from tasks.monitoring.canary import consumption_of_workers\n"
        "from tasks.settings import get_settings\n"
        "client = Redis.from_url(get_settings().redis.broker_url, socket_connect_timeout=1)\n"
        # Each try counts as a sign of life.
        f"shown = ['systemctl', 'show', '-P', 'WatchdogTimestampMonotonic', {WORKER!r}, {POOL!r}]\n"
        "tries = [set(), set()]\n"
        "while True:\n"
        "    try: client.ping(); break\n"
        "    except RedisError: pass\n"
        "    signs = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split()\n"
        "    for of_one, sign in zip(tries, signs, strict=True): of_one.add(int(sign) / 1_000_000)\n"
        "    time.sleep(0.1)\n"
        "between = lambda times: [later - earlier for earlier, later in itertools.pairwise(sorted(times))]\n"
        f"found = consumption_of_workers(celery_app, {nodes!r}, {MAX_SECONDS}, {MAX_SECONDS})\n"
        "pauses = [statistics.median(between(times)) for times in tries]\n"
        "print(json.dumps([pauses, [one.seconds for one in found]]))\n",
    )
    print(f"tried every {pauses} s, consumed after {seconds} s")
    assert max(pauses) < MAX_PAUSE
    assert len(seconds) == len(nodes) == 2
    assert None not in seconds
    assert {unit: main_pid(usual, unit) for unit in UNITS} == before


def test_what_hangs_is_restarted(one: Host) -> None:
    """The main process of each unit, or all processes of a worker's pool."""
    before = {unit: main_pid(one, unit) for unit in UNITS}
    now = one.check_output("date +%s")

    answered = run_code(
        one,
        "import json, subprocess\n"
        "from tasks.celery_app import celery_app\n"
        "[node] = [node for node in celery_app.control.inspect(timeout=30, limit=2).ping() if 'sending@' in node]\n"
        f"subprocess.run(['pkill', '-STOP', '-P', {str(before[POOL])!r}], check=True)\n"
        "print(json.dumps(celery_app.control.inspect([node], timeout=30).ping()[node]))\n",
    )
    one.check_output("kill -STOP " + " ".join(str(pid) for unit, pid in before.items() if unit != POOL))

    assert answered == {"ok": "pong"}  # of a worker that does nothing any more
    for unit, pid in before.items():
        wait_active(one, unit, not_pid=pid)
        said = one.check_output(f"journalctl --no-pager -o cat --since=@{now} -u {unit}")
        assert f"{unit}: Watchdog " in said
        assert ("Fatal Python error: Aborted" in said) == (unit in OF_PYTHON)  # and where it stood
        assert ("this worker has itself restarted" in said) == (unit == POOL)


@pytest.mark.usefixtures("busy", "full_disk")
def test_neither_long_tasks_nor_a_full_disk_restart_anything(one: Host) -> None:
    """All processes of the worker are at work. The pool has work to do, and does it."""
    before = {unit: main_pid(one, unit) for unit in UNITS}
    node = f"sending@{one.check_output('hostname')}"
    time.sleep(2 * SECONDS)
    canary = (
        "import json\nfrom tasks.celery_app import celery_app\n"
        "from tasks.monitoring.canary import consumption_of_workers\n"
        f"[found] = consumption_of_workers(celery_app, [{node!r}], {MAX_SECONDS}, {MAX_SECONDS})\n"
        "print(json.dumps(found.seconds is not None))\n"
    )
    assert run_code(one, canary)
    assert _connections(one) == len(_ACCOUNTS)
    assert {unit: main_pid(one, unit) for unit in UNITS} == before
