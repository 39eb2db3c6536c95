"""The verbs that look into the queues and empty them, on a real Redis with good and with hostile content."""

import json
import unicodedata
from collections.abc import Iterator

import pytest
import redis as redis_client
from click.testing import CliRunner, Result

from manage import cli, session
from tasks.registry import CHECK_SPAM, QUEUES, SEND_EMAIL, SYNC_EMAILS
from tasks.runtime.broker.queues import lists, wake_key
from tasks.runtime.scheduler import LAST_RUNS, TICKED
from tests.conftest import TENANT, USER
from tests.support.application import Broker
from tests.support.servers import RedisServer

SENT = "\x1b]0;owned\x07\x9b2J\u202e[bold]"
# Whatever somebody may have put on a queue.
HOSTILE: tuple[bytes, ...] = (
    b"",
    b"\xff\xfe\x00",
    b"nothing",
    b"[" * 100_000,
    b"1" * 100_000,
    b'{"headers": [], "body": 1}',
    json.dumps({"headers": {"task": SENT, "id": SENT, "eta": SENT}, "body": "e30="}).encode(),
    json.dumps({"headers": {"task": SYNC_EMAILS, "id": {"x": 1}}, "properties": None, "body": SENT}).encode(),
    b'{"x": "' + b"x" * (2 * 1024 * 1024) + b'"}',
)


@pytest.fixture
def client(broker: Broker, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis_client.Redis]:
    monkeypatch.setattr(session, "IS_HOST", True)  # the environment is that of the test
    with redis_client.Redis(port=redis.port, password=redis.password) as client:
        yield client


def run(*arguments: str, given: str = "") -> Result:
    done = CliRunner().invoke(cli.main, arguments, input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def waiting(client: redis_client.Redis, queue: str) -> int:
    return sum(int(client.llen(key)) for key in lists(queue))


def test_the_messages_of_a_queue_come_in_the_order_in_which_workers_take_them(
    broker: Broker, client: redis_client.Redis
) -> None:
    for number, priority in enumerate((9, 0, 3)):
        broker.app.tasks[SEND_EMAIL].apply_async(
            (f"account-{number}", TENANT, USER, ["bob@example.net"]), {"subject": "the words"}, priority=priority
        )
    listed = json.loads(run("queue:list", "send", "--json").stdout)
    assert listed["depth"] == 3
    assert [message["arguments"]["args"][0] for message in listed["messages"]] == [
        "account-1",
        "account-2",
        "account-0",
    ]
    assert {message["task"] for message in listed["messages"]} == {SEND_EMAIL}
    assert listed["messages"][0]["arguments"]["kwargs"] == {"subject": "<9 characters>"}

    table = run("queue:list", "send", "--limit", "2").output
    assert "bob@example.net" not in table
    assert "account-2" in table
    assert "account-0" not in table
    assert "2 of 3 messages" in table
    assert "is empty" in run("queue:list", "spam").output


def test_a_queue_is_emptied_alone(broker: Broker, client: redis_client.Redis) -> None:
    for priority in (0, 9):
        broker.app.tasks[CHECK_SPAM].apply_async(("mail", TENANT, USER), priority=priority)
    broker.app.tasks[SYNC_EMAILS].delay("account", TENANT, USER)

    assert run("queue:flush", "spam", given="n\n").exit_code == 1
    assert waiting(client, "spam") == 2
    assert "2 in spam" in run("queue:flush", "spam", given="n\n").output

    assert json.loads(run("queue:flush", "spam", "--yes", "--json").stdout) == {"deleted": {"spam": 2}}
    assert waiting(client, "spam") == 0
    assert not client.exists(wake_key("spam"))
    assert waiting(client, "sync") == 1

    assert "1 messages are deleted" in run("task:purge", given="y\n").output
    assert [waiting(client, queue) for queue in QUEUES] == [0] * len(QUEUES)


def test_no_content_of_a_queue_ends_in_a_traceback_or_on_the_terminal(client: redis_client.Redis) -> None:
    client.rpush("sync", *HOSTILE)
    client.set(lists("sync")[1], SENT)
    client.hset("spam", SENT, SENT)
    for arguments in (["queue:list", "sync"], ["queue:list", "sync", "--json"], ["queue:list", "spam"]):
        done = run(*arguments)
        assert done.exit_code == 0, done.output
        assert not {unicodedata.category(char) for char in done.output} & {"Cf", "Zl", "Zp"}
        assert not {char for char in done.output if unicodedata.category(char) == "Cc"} - {"\n"}
    assert len(json.loads(run("queue:list", "sync", "--json").stdout)["messages"]) == len(HOSTILE)
    assert json.loads(run("task:purge", "--yes", "--json").stdout)["deleted"]["sync"] == len(HOSTILE)
    assert not client.exists("sync", "spam", *lists("sync"))


def test_the_schedule_says_when_each_entry_runs(client: redis_client.Redis) -> None:
    assert run("beat:status").exit_code == 1
    now = float(client.time()[0])
    client.set(TICKED, now)
    client.hset(LAST_RUNS, mapping={"sync-emails-every-5min": now - 100, "queue-waiting-mail-every-30s": now - 90})

    shown = run("beat:status", "--json")
    assert shown.exit_code == 0
    entries = {entry["name"]: entry for entry in json.loads(shown.stdout)["entries"]}
    assert entries["sync-emails-every-5min"]["next_run"] == pytest.approx(200, abs=5)
    assert entries["cleanup-stale-tasks-hourly"]["last_run"] is None
    table = run("beat:status").output
    assert "late by 00:01:0" in table
    assert "in 00:03:" in table

    client.set(TICKED, now - 60)
    late = run("beat:status")
    assert late.exit_code == 1
    assert "for 00:01:0" in late.stderr


@pytest.mark.parametrize("noted", [SENT, "nan", "inf", "-1", "9" * 400, ""])
def test_what_beat_did_not_write_is_unknown(noted: str, client: redis_client.Redis) -> None:
    client.set(TICKED, noted)
    client.hset(LAST_RUNS, "sync-emails-every-5min", noted)
    assert "unknown" in run("beat:status").output
    client.delete(TICKED, LAST_RUNS)
    client.rpush(TICKED, noted)
    client.set(LAST_RUNS, noted)
    done = run("beat:status", "--json")
    assert done.exit_code == 1
    assert {entry["last_run"] for entry in json.loads(done.stdout)["entries"]} == {None}
