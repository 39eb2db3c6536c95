"""Whatever bytes are the id of a message, or its note: the message goes aside once, and people can drop it."""

import json
import time
from collections.abc import Iterator

import pytest
import redis as redis_client
from click.testing import CliRunner

from manage import cli, dlq, session
from tasks.runtime.broker import aside
from tests.support import fault_app
from tests.support.servers import RedisServer

# What an application writes with its own tools, and what nobody would write.
ODD = [b"\xff\xfe", b"caf\xe9", b"", b" ", b"a\0b", b"\x1b[2J", "日本".encode(), b"%FF", b"a\nb", b"'\"\\"]


@pytest.fixture
def raw(
    client: redis_client.Redis, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis_client.Redis]:
    """A connection that decodes nothing."""
    monkeypatch.setattr(session, "connect", lambda **_: None)
    monkeypatch.setattr(dlq, "connect", lambda **_: None)
    with redis_client.Redis(port=redis.port, password=redis.password) as raw:
        yield raw


def listed() -> list[str]:
    answer = CliRunner().invoke(cli.main, ["dlq", "list", "--json"])
    assert answer.exit_code == 0, answer.output
    return [letter["id"] for letter in json.loads(answer.stdout)]


def dlq_does(*words: str) -> None:
    answer = CliRunner().invoke(cli.main, ["dlq", *words])
    assert answer.exit_code == 0, answer.output


def test_a_tag_of_any_bytes_is_put_aside_once_and_dropped(
    raw: redis_client.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for tag in ODD:
        raw.hset("unacked", tag, b"no message \xff")
        raw.zadd("unacked_index", {tag: 1})
    with fault_app.app.connection_for_read() as connection:
        channel = connection.channel()
        for _ in range(3):
            channel.qos.restore_visible(num=100, interval=1)
    assert not raw.exists("unacked", "unacked_index")
    assert sorted(raw.hkeys("metabuilder:aside")) == sorted(ODD)
    assert caplog.text.count("was put aside") == len(ODD)
    assert "\x1b" not in caplog.text

    ids = listed()
    assert all(shown.isascii() and shown.isprintable() and " " not in shown for shown in ids)
    assert sorted(map(aside.tag_of, ids)) == sorted(ODD)
    for shown in ids:
        dlq_does("show", shown)
        dlq_does("drop", shown, "--yes")
    assert not raw.keys("metabuilder:aside*")


def test_one_that_can_be_run_is_queued_again_by_its_shown_id(raw: redis_client.Redis) -> None:
    fault_app.count.apply_async(("t", "u", "/nowhere", 1), queue="sync", ignore_result=True)
    [message] = raw.lrange("sync", 0, -1)
    raw.delete("sync", "metabuilder:wake:sync")
    raw.hset("metabuilder:aside", b"\xff", b'[%s, "", "sync"]' % message)
    raw.zadd("metabuilder:aside:unknown", {b"\xff": time.time()})
    assert listed() == ["%FF"]
    dlq_does("retry", "%FF")
    assert raw.llen("sync") == 1
    assert not raw.keys("metabuilder:aside*")


def test_what_has_no_note_that_says_when_ages_from_now_on(
    raw: redis_client.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = {"code": "task_unknown", "error": "", "task_name": None, "task_id": None, "size": 1}
    raw.hset("metabuilder:aside", b"without a note \xff", "no message")
    for number, odd in enumerate(
        [b"\xff", b"{}", json.dumps({**note, "at": 1e300}), json.dumps({**note, "at": "x"})]
    ):
        raw.hset("metabuilder:aside:notes", f"odd-{number}", odd)
    assert len(listed()) == 5
    assert aside.delete_old(raw, 3600) == 0
    assert len(listed()) == 5

    monkeypatch.setattr(aside, "redis_now", lambda _: time.time() + 3601)
    assert aside.delete_old(raw, 3600) == 5
    assert not raw.keys("metabuilder:aside*")


def test_a_message_noted_as_taken_before_time_began_comes_back(raw: redis_client.Redis) -> None:
    fault_app.count.apply_async(("t", "u", "/nowhere", 1), queue="sync", ignore_result=True)
    [message] = raw.lrange("sync", 0, -1)
    raw.delete("sync")
    for tag, score in ((b"\xff", -5), (b"\xfe", float("-inf"))):
        raw.hset("unacked", tag, b'[%s, "", "sync"]' % message)
        raw.zadd("unacked_index", {tag: score})
    with fault_app.app.connection_for_read() as connection:
        connection.channel().qos.restore_visible(num=100, interval=1)
    assert raw.llen("sync") == 2
    assert not raw.exists("unacked", "unacked_index")
