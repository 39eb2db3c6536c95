"""`dlq retry` and `dlq drop` of several dead letters: an id at which the verb fails keeps no other from its turn."""

import json
from collections.abc import Callable, Iterator

import pytest
import redis as redis_client
from click.testing import CliRunner, Result

from manage import cli, dlq
from tasks.storage import dead_letters
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import broker as connection_to
from tests.support import fault_app
from tests.support.application import application
from tests.support.servers import RedisServer

# By the name of the task: arguments of a dead letter, and why `dlq retry` leaves it.
LETTERS = {
    "test.gone": ([TENANT, USER, "/nowhere", 1], "the task test.gone"),
    "celery.map": ([TENANT, USER, "/nowhere", 1], "the task celery.map"),
    "test.fault": ([TENANT, USER, "/nowhere", 1, 2, 3, 4, 5], "test.fault: too many positional arguments"),
    "test.count": ([TENANT, USER, "/nowhere", 1], None),
}


@pytest.fixture
def client(
    redis: RedisServer, database: Database, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=redis.url)
    monkeypatch.setattr(dlq, "connect", lambda **_: None)
    with connection_to(redis) as client, application(fault_app):
        for name, (arguments, _) in LETTERS.items():
            failure = dead_letters.Failure(name, name, f"id of {name}", USER, {}, "code", "error", "", 1)
            dead_letters.bury(TENANT, failure, arguments, {})
        yield client


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(cli.main, ["dlq", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def ids() -> dict[str, str]:
    return {letter.task_name: letter.id for letter in dead_letters.list_letters()}


@pytest.mark.parametrize("how", ["by ids", "all"])
def test_every_other_dead_letter_is_retried(client: redis_client.Redis, how: str) -> None:
    chosen = ["--all"] if how == "all" else ["nobody's", *ids().values(), ids()["test.count"]]

    retried = run("retry", "--json", *chosen)

    assert retried.exit_code == 1, retried.output
    assert json.loads(retried.stdout) == {"task_ids": ["id of test.count"]}
    said = {*retried.stderr.splitlines()}
    wanted = {ids()[name]: why for name, (_, why) in LETTERS.items() if why}
    if how == "by ids":
        wanted["nobody's"] = "Not found. ./manage.sh dlq list shows their ids"
    assert len(said) == len(wanted)
    for letter_id, why in wanted.items():
        assert any(line.startswith(f"error: dead letter {letter_id}: ") and why in line for line in said), said
    assert client.llen("sync") + client.llen("celery") == 1


def test_every_other_dead_letter_is_dropped(client: redis_client.Redis) -> None:
    dropped = run("drop", "--yes", "nobody's", ids()["test.gone"], "another", ids()["test.fault"])
    assert dropped.exit_code == 1, dropped.output
    assert "2 dropped" in dropped.stderr
    assert {*ids()} == {"celery.map", "test.count"}
