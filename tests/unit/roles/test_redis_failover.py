"""With which file Redis and Sentinel start on a site with several hosts. A real change is in tests/integration/."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.roles.plugins import load

SETTINGS = {
    "address": "redis1",
    "hosts": {"one": "redis1", "two": "redis2", "three": "redis3"},
    "instances": [{"name": "broker", "port": 6379}],
    "sentinel_port": 26379,
    "first_master": "redis2",
    "ca": "",
    "user": "metabuilder_sentinel",
    "password": "secret",
}
TEMPLATE = (
    "aclfile /etc/redis/sentinel.acl\nsentinel monitor broker redis2 6379 2\nsentinel auth-pass broker secret\n"
)
# As Sentinel writes it: also of an instance and of a host that are no more.
WRITTEN = """sentinel monitor broker redis3 6379 2
sentinel myid 29bd2011136983d9f8677538c5a6f7e71f7f1e8d
sentinel config-epoch broker 3
sentinel leader-epoch broker 3
sentinel current-epoch 3
sentinel known-replica broker redis1 6379
sentinel known-replica broker redis9 6379
sentinel known-sentinel broker redis2 26379 10082089142488ed4261e5847e45491053660824
sentinel known-sentinel broker redis9 26379 20082089142488ed4261e5847e45491053660824
sentinel config-epoch results 7
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """On a host where nothing has run yet, and of whose site no Sentinel answers."""
    module = load("redis/files/redis_failover.py")
    (tmp_path / "broker").mkdir()
    (tmp_path / "redis-broker.conf").write_text("port 6379\n")
    (tmp_path / "template.conf").write_text(TEMPLATE)
    (tmp_path / "replication.json").write_text(json.dumps(SETTINGS))
    for name, path in (
        ("SETTINGS", tmp_path / "replication.json"),
        ("REDIS_FILES", tmp_path),
        ("DATA", tmp_path),
        ("SENTINEL_TEMPLATE", tmp_path / "template.conf"),
        ("SENTINEL_FILE", tmp_path / "sentinel.conf"),
    ):
        monkeypatch.setattr(module, name, path)
    monkeypatch.setattr(module, "_START_SECONDS", 0)
    monkeypatch.setattr(module.Site, "views", lambda self, name: {})
    return module


def sentinels_say(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *views: tuple[int, str]) -> None:
    """Each Sentinel that answers: the number of the last failover that it knows, and its master."""
    found = dict(zip(("redis1", "redis2", "redis3"), views, strict=False))
    monkeypatch.setattr(module.Site, "views", lambda self, name: found)


def started(tmp_path: Path) -> str:
    return (tmp_path / "broker" / "redis.conf").read_text()


def test_the_first_start_is_as_the_inventory_says(program: ModuleType, tmp_path: Path) -> None:
    assert program.main("start-redis", "broker") == 0
    assert started(tmp_path) == "port 6379\nreplicaof redis2 6379\n"
    assert (tmp_path / "broker" / "redis.conf").stat().st_mode & 0o007 == 0


def test_a_master_that_comes_back_after_a_failover_is_a_replica(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given one that was the master when its power was cut, and whose own Sentinel knows no better
    (tmp_path / "broker" / "redis.conf").write_text("port 6379\n")
    sentinels_say(program, monkeypatch, (2, "redis1"), (3, "redis3"))
    program.main("start-redis", "broker")
    assert "replicaof redis3 6379" in started(tmp_path)


@pytest.mark.parametrize("line", ["replicaof redis3 6379", 'replicaof "redis3" 6379', "slaveof redis3 6379"])
def test_where_no_sentinel_answers_it_goes_on_as_it_was(program: ModuleType, tmp_path: Path, line: str) -> None:
    (tmp_path / "broker" / "redis.conf").write_text(f"port 6379\nmaxmemory 1gb\n{line}\n")
    program.main("start-redis", "broker")
    # With what the role says now, not with what was written down then
    assert started(tmp_path) == "port 6379\nreplicaof redis3 6379\n"
    (tmp_path / "broker" / "redis.conf").write_text("port 6379\n")
    program.main("start-redis", "broker")
    assert started(tmp_path) == "port 6379\n"


def test_a_new_sentinel_takes_the_master_of_the_others(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.main("start-sentinel")
    assert (tmp_path / "sentinel.conf").read_text() == TEMPLATE
    (tmp_path / "sentinel.conf").unlink()
    sentinels_say(program, monkeypatch, (3, "redis3"))
    program.main("start-sentinel")
    assert "sentinel monitor broker redis3 6379 2" in (tmp_path / "sentinel.conf").read_text()


def test_a_sentinel_keeps_what_it_knew_of_what_is_still_there(program: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "sentinel.conf").write_text(WRITTEN)
    program.main("start-sentinel")
    made = (tmp_path / "sentinel.conf").read_text()
    assert made.splitlines()[:3] == TEMPLATE.replace("broker redis2", "broker redis3").splitlines()
    gone = [line for line in WRITTEN.splitlines() if "redis9" in line or " results " in line]
    assert made.splitlines()[3:] == [line for line in WRITTEN.splitlines()[1:] if line not in gone]


def test_what_it_cannot_do_is_said(program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main("switchover", "other") == 2
    assert "instances: broker" in capsys.readouterr().err
    assert program.main("switchover", "broker", "four") == 1
    assert "no host four in the group redis: one, two, three" in capsys.readouterr().err
    program.SETTINGS.unlink()
    assert program.main("status") == 1
    assert "a site with one Redis has no failover" in capsys.readouterr().err
