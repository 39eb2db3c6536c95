"""redis-server@broker.service"""

import shlex
import signal

import pytest
from testinfra.host import Host

from tests.support.site import Site, main_pid, wait_active

UNIT = "redis-server@broker.service"


def ask(site: Site, redis_host: Host, user: str, command: str) -> str:
    """What Redis answers to a user on its own host."""
    variables = {"metabuilder": "redis_password", "default": "redis_admin_password"}
    name = site.group("redis")[0]
    password = shlex.quote(site.variable(name, variables[user]))
    tls = "--tls --cacert /etc/metabuilder/tls/ca.crt" if len(site.names) > 1 else ""
    host = name if tls else "127.0.0.1"
    done = redis_host.run(f"REDISCLI_AUTH={password} redis-cli {tls} -h {host} --user {user} {command}")
    return (done.stdout + done.stderr).strip()


def test_it_runs_and_starts_with_the_host(redis_host: Host) -> None:
    assert redis_host.service(UNIT).is_running
    assert redis_host.service(UNIT).is_enabled


def test_the_broker_never_evicts_and_writes_everything_down(site: Site, redis_host: Host) -> None:
    assert ask(site, redis_host, "default", "config get maxmemory-policy").split()[-1] == "noeviction"
    assert ask(site, redis_host, "default", "config get appendonly").split()[-1] == "yes"
    assert int(ask(site, redis_host, "default", "config get maxmemory").split()[-1]) > 0


def test_the_application_may_work_but_not_administer(site: Site, redis_host: Host) -> None:
    assert ask(site, redis_host, "metabuilder", "ping").endswith("PONG")
    assert "NOPERM" in ask(site, redis_host, "metabuilder", "config get dir")
    assert "NOPERM" in ask(site, redis_host, "metabuilder", "flushall")


def test_nobody_is_answered_without_a_password(redis_host: Host) -> None:
    said = redis_host.run("redis-cli -h 127.0.0.1 ping")
    assert "PONG" not in said.stdout


def test_plaintext_is_refused_between_hosts(site: Site) -> None:
    if len(site.names) == 1:
        pytest.skip("all is on one host: nothing leaves it")
    worker = site.first("celery_workers")
    address = site.address(site.group("redis")[0])
    said = worker.run(f"exec 3<>/dev/tcp/{address}/6379 && printf 'PING\\r\\n' >&3 && timeout 5 head -c 5 <&3")
    assert "PONG" not in said.stdout
    assert "NOAUTH" not in said.stdout


def test_it_comes_back_when_killed(redis_host: Host) -> None:
    before = main_pid(redis_host, UNIT)
    redis_host.check_output(f"systemctl kill -s {signal.SIGKILL:d} {UNIT}")
    wait_active(redis_host, UNIT, not_pid=before)
