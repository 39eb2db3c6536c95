"""As the user of the application's own hosts: tasks are queued and results read, and nothing else (roles/redis)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis as redis_client
import yaml
from jinja2 import Template

from native.state import ROOT
from tasks.errors import BrokerUnavailableError
from tasks.registry import CHECK_SPAM, DELETE_EMAILS, PERIODIC_SYNC, SEND_EMAIL, SYNC_EMAILS
from tasks.runtime.control import get_active_tasks, get_queue_stats, get_task_status
from tests.support.application import application
from tests.support.debians_redis import DebiansRedis
from tests.support.servers import RedisServer

DEFAULTS = yaml.safe_load((ROOT / "roles/redis/defaults/main.yml").read_text())
USER = DEFAULTS["redis_application_user"]
# With what is allowed besides where Redis has Sentinels.
RULES = Template(DEFAULTS["redis_application_rules"]).render(site_redis_sentinels="redis1:26379")
PASSWORD = "of-the-application"
RESULT = "celery-task-meta-of-somebody"
# What a stolen application host would try: to read what others queued or were told, and to harm.
REFUSED = (
    *("KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "MONITOR", "INFO", "CONFIG GET dir", "ACL LIST", "CLIENT LIST"),
    *("CLIENT KILL TYPE normal", "CLIENT PAUSE 1", "CLIENT TRACKING ON BCAST"),  # which tells the names of keys
    *("FLUSHALL", "FLUSHDB", "SHUTDOWN", "REPLICAOF NO ONE", "SCRIPT FLUSH", "FUNCTION LIST"),
    *("RPOP sync", "LPOP send", "BRPOP send 1", "LMOVE send sync LEFT LEFT", "RPOPLPUSH send sync"),
    *("LRANGE send 0 -1", "LINDEX send 0", "LPOS send x", "SORT send", "DUMP send", "COPY send x", "GET send"),
    *("DEL send", "UNLINK send", "LTRIM send 1 0", "LSET send 0 x", "LREM send 0 x", "RENAME send x"),
    *("HGETALL unacked", "ZRANGE unacked_index 0 -1", "LRANGE metabuilder:wake:send 0 -1"),
    *("LPUSH periodic x", "LPUSH webhooks x", "LPUSH unacked x", f"LPUSH {RESULT} x", "LPUSH sendx x"),
    *(f"SET {RESULT} x", f"DEL {RESULT}", f"GETDEL {RESULT}", f"APPEND {RESULT} x", "GET metabuilder:workers"),
    *("SET metabuilder:results:check 1 GET", "GET metabuilder:results:check", "SET x 1"),
    *("PUBLISH /0.celery.pidbox x", "SUBSCRIBE /0.celery.pidbox", "PSUBSCRIBE *", "MULTI", "WATCH send"),
)
# A script may do what its user may.
SCRIPTS = (
    "return redis.call('RPOP', KEYS[1])",
    "return redis.call('LRANGE', KEYS[1], 0, -1)",
    "return redis.call('KEYS', '*')",
    "return redis.call('HGETALL', 'unacked')",
)


@pytest.fixture(params=[DebiansRedis, RedisServer])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    running: RedisServer = request.param(tmp_path / "redis")
    running.start()
    try:
        with client(running) as administrator:
            administrator.execute_command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *RULES.split())
        yield running
    finally:
        running.stop()


def test_the_application_queues_tasks_and_reads_results_and_does_nothing_else(
    server: RedisServer, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL=f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}")
    with application() as app:
        # Given what an application does: each of its tasks, at once and later, and what became of one
        queued = [
            app.tasks[SYNC_EMAILS].delay("account", "tenant", "user"),
            app.tasks[SYNC_EMAILS].apply_async(("account", "tenant", "user"), priority=3, countdown=60, expires=600),
            app.tasks[SEND_EMAIL].delay("account", "tenant", "user", ["you@example.org"]),
            app.tasks[DELETE_EMAILS].delay(["mail"], "tenant", "user"),
            app.tasks[CHECK_SPAM].delay("mail", "tenant", "user"),
        ]
        done = queued[0].id
        with client(server, db=1) as results:
            results.set(f"celery-task-meta-{done}", json.dumps({"status": "SUCCESS", "result": 7, "task_id": done}))
            results.set(RESULT, "{}")
        assert queued[0].get(timeout=60) == 7
        assert get_task_status(queued[1].id)["state"] == "PENDING"
        app.backend.check_takes_results()
        app.backend.mget([f"celery-task-meta-{done}"])
        with client(server) as administrator:
            assert lengths(administrator) == [1, 1, 1, 1]
            assert administrator.execute_command("ACL", "LOG") == []  # nothing was tried in vain

        # Then nothing else is allowed, and what was queued is where it was
        with client(server, username=USER, password=PASSWORD) as attacker:
            allowed = [command for command in REFUSED if not is_refused(attacker, *command.split())]
            allowed += [script for script in SCRIPTS if not is_refused(attacker, "EVAL", script, "1", "send")]
        assert allowed == []
        with client(server) as administrator:
            assert lengths(administrator) == [1, 1, 1, 1]

        # And what is not for applications says so, instead of an answer that is not true
        for ask in (app.tasks[PERIODIC_SYNC].delay, get_queue_stats, get_active_tasks):
            with pytest.raises(BrokerUnavailableError, match=r"(?i)permission"):
                ask()


def lengths(administrator: redis_client.Redis) -> list[int]:
    """How many messages wait on each queue, without those of another priority."""
    return [administrator.llen(queue) for queue in ("sync", "send", "delete", "spam")]


def client(server: RedisServer, **login: object) -> redis_client.Redis:
    """A client of the broker's database, as the administrator unless another login is given."""
    return redis_client.Redis(**{"port": server.port, "password": server.password, **login})


def is_refused(client: redis_client.Redis, *command: str) -> bool:
    """Whether Redis says that this user may not give the command."""
    try:
        client.execute_command(*command)
    except redis_client.exceptions.NoPermissionError:
        return True
    except redis_client.RedisError as error:
        return "ACL failure" in str(error) or "The user executing the script" in str(error)
    return False
