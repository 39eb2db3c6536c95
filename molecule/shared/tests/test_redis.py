"""redis-server@broker.service"""

import signal

import pytest
from testinfra.host import Host

from tests.support.site import Site, ask_redis, main_pid, run_code, wait_active

UNIT = "redis-server@broker.service"


def test_it_runs_and_starts_with_the_host(redis_host: Host) -> None:
    assert redis_host.service(UNIT).is_running
    assert redis_host.service(UNIT).is_enabled


def test_the_broker_never_evicts_and_writes_everything_down(site: Site, redis_host: Host) -> None:
    assert ask_redis(site, redis_host, "default", "config get maxmemory-policy").split()[-1] == "noeviction"
    assert ask_redis(site, redis_host, "default", "config get appendonly").split()[-1] == "yes"
    assert int(ask_redis(site, redis_host, "default", "config get maxmemory").split()[-1]) > 0


def test_results_are_in_an_instance_of_their_own_and_may_be_evicted(site: Site, redis_host: Host) -> None:
    instances = {each["name"]: each for each in site.variable(site.group("redis")[0], "redis_instances", [])}
    if "results" not in instances:
        pytest.skip("this site has one instance for both")
    unit, port = "redis-server@results.service", instances["results"]["port"]
    assert redis_host.service(unit).is_running
    assert redis_host.service(unit).is_enabled
    assert ask_redis(site, redis_host, "default", "config get maxmemory-policy", port).split()[-1] == "allkeys-lru"
    assert ask_redis(site, redis_host, "default", "config get appendonly", port).split()[-1] == "no"
    # A task's state goes there, and nothing of it to the broker.
    code = "import json\nfrom tasks.celery_app import celery_app\n"
    task = "email_service.tasks.cleanup_stale_results"
    code += f"result = celery_app.send_task({task!r})\nresult.get(300)\nprint(json.dumps(result.id))"
    key = f"celery-task-meta-{run_code(site.first('celery_workers'), code)}"
    assert ask_redis(site, redis_host, "metabuilder", f"-n 1 exists {key}", port) == "1"
    assert ask_redis(site, redis_host, "metabuilder", f"-n 1 exists {key}") == "0"


def test_the_application_may_work_but_not_administer(site: Site, redis_host: Host) -> None:
    assert ask_redis(site, redis_host, "metabuilder", "ping").endswith("PONG")
    assert "NOPERM" in ask_redis(site, redis_host, "metabuilder", "config get dir")
    assert "NOPERM" in ask_redis(site, redis_host, "metabuilder", "flushall")


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


def test_damage_in_the_middle_is_mended_by_a_person_with_one_command(redis_host: Host) -> None:
    if redis_host.run("systemctl is-enabled celery-worker").stdout.strip() != "enabled":
        pytest.skip("covered by the scenario with one host")
    # Given garbage before commands that are whole, and a manifest that says nothing
    folder = "/var/lib/redis/broker/appendonlydir"
    redis_host.check_output(f"systemctl stop {UNIT}")
    damage = r"'garbage\r\n*1\r\n$4\r\nPING\r\n'"
    redis_host.check_output(f"printf {damage} >>$(ls -t {folder}/*.incr.aof | head -n 1)")
    redis_host.check_output(f": >{folder}/appendonly.aof.manifest")
    assert redis_host.run(f"systemctl start {UNIT}").rc != 0

    done = redis_host.run("echo y | metabuilder-redis-repair broker")

    assert done.rc == 0, done.stdout + done.stderr
    assert "Successfully truncated AOF" in done.stdout
    wait_active(redis_host, UNIT)
    redis_host.check_output("rm -r /var/lib/redis/broker/damaged-*")
