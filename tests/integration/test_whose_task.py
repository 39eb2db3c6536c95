"""Who says who they are learns of their own tasks, and revokes no others; a real worker on a real Redis."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis as redis_client

from tasks.runtime.control import get_active_tasks, get_queue_stats, get_task_status, revoke_task
from tests.conftest import TENANT, USER, Database
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

APP = "tests.support.fault_app:app"
OWNERS = [{}, {"tenant_id": TENANT}, {"tenant_id": TENANT, "user_id": USER}]
OTHERS = [
    {"tenant_id": "tenant-2"},
    {"tenant_id": "tenant-2", "user_id": USER},
    {"tenant_id": TENANT, "user_id": "user-2"},
    {"tenant_id": TENANT, "user_id": ""},
    {"tenant_id": ""},
]


@pytest.fixture
def worker(
    redis: RedisServer, database: Database, environment: Callable[..., None], tmp_path: Path
) -> Iterator[Worker]:
    environment(REDIS_URL=redis.url)
    with application(fault_app), Worker(tmp_path, app=APP, options=("--without-gossip",)) as worker:
        yield worker


def publish(folder: Path, what: str) -> str:
    """Queue a task of TENANT and USER; its id."""
    folder.mkdir(exist_ok=True)
    arguments = (TENANT, USER, str(folder), what, "somebody's mail")
    return str(fault_app.fault.apply_async(arguments, queue="sync").id)


def state(task_id: str, **caller: str) -> str:
    return str(get_task_status(task_id, **caller)["state"])


def test_a_task_is_its_owners(worker: Worker, tmp_path: Path) -> None:
    """One worker process: what is queued behind a task that runs waits."""
    running, failed = tmp_path / "running", publish(tmp_path / "failed", "fail")
    wait_until(lambda: state(failed) == "FAILURE", "it does not fail")
    for caller in OWNERS:
        assert get_task_status(failed, **caller)["error_code"] == "wrong", caller
    unknown = get_task_status("unknown", tenant_id=TENANT)
    for caller in OTHERS:
        assert get_task_status(failed, **caller) == {**unknown, "task_id": failed}, caller

    runs = publish(running, "hang")
    wait_until(lambda: fault_app.runs(running), "it does not begin")
    waiting = {str(number): publish(tmp_path / f"waiting-{number}", "slow") for number in range(3)}
    assert state(runs, tenant_id=TENANT) == "STARTED"

    [seen] = [task for tasks in get_active_tasks(tenant_id=TENANT, user_id=USER).values() for task in tasks]
    assert seen["id"] == runs
    assert "somebody's mail" not in str(seen)
    assert TENANT in str(seen)
    for caller in OTHERS:
        assert not any(get_active_tasks(**caller).values()), caller
        revoke_task(runs, terminate=True, **caller)
        revoke_task(waiting["0"], **caller)
    revoke_task(waiting["1"], tenant_id=TENANT)
    revoke_task(waiting["2"], tenant_id=TENANT, user_id=USER)
    time.sleep(0.5)  # what was asked for comes to the worker, and would end it
    assert state(runs) == "STARTED"
    revoke_task(runs, terminate=True, tenant_id=TENANT, user_id=USER)

    wait_until(lambda: state(runs) == "REVOKED", "it is not stopped")
    for number in ("1", "2"):
        wait_until(lambda number=number: state(waiting[number], tenant_id=TENANT) == "REVOKED", "it is not revoked")
        assert not fault_app.runs(tmp_path / f"waiting-{number}")
    wait_until(lambda: state(waiting["0"]) == "SUCCESS", "another's word stopped it")


def test_a_connection_that_redis_closed_since_costs_no_answer(
    worker: Worker, redis: RedisServer, tmp_path: Path
) -> None:
    """As after a restart of Redis at night: the application asks again in the morning."""
    task_id = publish(tmp_path / "running", "hang")
    wait_until(lambda: state(task_id) == "STARTED", "it does not begin")
    for _ in range(3):
        assert [task["id"] for tasks in get_active_tasks().values() for task in tasks] == [task_id]
        assert set(get_queue_stats().values()) == {0}
        assert get_task_status(task_id)["state"] == "STARTED"
        _close_connections_of_this_process(redis)
    revoke_task(task_id, terminate=True)
    wait_until(lambda: state(task_id) == "REVOKED", "it is not stopped")


def _close_connections_of_this_process(server: RedisServer) -> None:
    ports = {
        each.laddr.port
        for each in psutil.Process().net_connections()
        if each.raddr and each.raddr.port == server.port
    }
    assert ports, "none was kept"
    with redis_client.Redis(port=server.port, password=server.password) as client:
        for port in ports:
            client.client_kill_filter(addr=f"127.0.0.1:{port}")


def test_a_user_is_one_of_a_tenant() -> None:
    for ask in (get_task_status, revoke_task):
        with pytest.raises(ValueError, match="tenant_id"):
            ask("id", user_id=USER)
    with pytest.raises(ValueError, match="tenant_id"):
        get_active_tasks(user_id=USER)
