"""Passwords with every sign that means something in a URL, of a server that refuses, is not there or has no TLS: no
piece of them is seen in a log, a result, or what a command says.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from manage import cli, session
from native.ports import free_port
from tasks.celery_app import create_celery_app
from tests.conftest import TENANT, USER, Database, register
from tests.support.mailbox import Mailbox
from tests.support.servers import RedisServer
from tests.support.worker import Worker, wait_until

NOWHERE = Mailbox("127.0.0.1", 9, "ada", "x")
PASSWORD = 'xq@zj:vk/wq#hb%40f$x" k'
# What a person would know a piece of it by, as it is and in a URL.
PIECES = {text[at : at + 5] for text in (PASSWORD, quote(PASSWORD, safe="")) for at in range(len(text) - 4)}


def told(text: str) -> set[str]:
    return {piece for piece in PIECES if piece in text}


class Urls:
    """Those of a Redis and of a PostgreSQL that are well, with the wrong password and with what else is wrong."""

    def __init__(self, redis: RedisServer, database: Database) -> None:
        login, at_postgresql = f":{quote(PASSWORD, safe='')}", database.worker_url.rpartition("@")[2]
        self.good = {"REDIS_URL": redis.url, "DATABASE_URL": database.worker_url}
        of_worker = f"postgresql+psycopg2://metabuilder_worker{login}"
        self.redis = {
            "a password": f"redis://{login}@127.0.0.1:{redis.port}",
            "a host": f"redis://{login}@nowhere.invalid:6379",
            "TLS": f"rediss://{login}@127.0.0.1:{redis.port}",
            "signs": f"redis://:{PASSWORD}@127.0.0.1:{redis.port}",
        }
        self.database = {
            "a password": f"{of_worker}@{at_postgresql}",
            "a host": f"{of_worker}@nowhere.invalid/mail",
            "TLS": f"{of_worker}@{at_postgresql}?sslmode=verify-full&sslrootcert=/nonexistent",
            "signs": f"postgresql+psycopg2://metabuilder_worker:{PASSWORD}@{at_postgresql}",
        }


@pytest.fixture
def urls(redis: RedisServer, database: Database, environment: Callable[..., None]) -> Urls:
    environment(TASK_RETRY_MAX_DELAY="1", LOG_LEVEL="DEBUG", FLOWER_BASIC_AUTH="admin:sample")
    return Urls(redis, database)


@contextmanager
def program(log: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Celery's with our application, or a command as it is on a host."""
    of_celery = ("celery", "-A", "tasks.celery_app:celery_app") if arguments[0] != "manage" else ()
    command = [sys.executable, "-m", *of_celery, *arguments]
    found = {"PYTHONPATH": os.pathsep.join(sys.path), "METABUILDER_COMMAND": "metabuilder"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **found, **variables}, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_no_piece_is_in_a_log_or_a_result(urls: Urls, environment: Callable[..., None], tmp_path: Path) -> None:
    programs = {
        "worker": (("worker", "-c1", "-lDEBUG"), urls.redis["a password"], "invalid username-password"),
        "beat": (("beat", "--pidfile=", "-lDEBUG"), urls.redis["TLS"], "Connection error"),
        "flower": (("flower", f"--port={free_port()}", "--logging=debug"), urls.redis["a host"], "nowhere.invalid"),
        "other worker": (("worker", "-c1"), urls.redis["signs"], "REDIS_URL: cannot be read as it is meant"),
        "command": (("manage", "sync", "mail", "--tenant", TENANT), urls.redis["a password"], "error: "),
        "other command": (("manage", "sync", "mail"), urls.redis["signs"], "(REDIS_URL: cannot be read"),
    }
    environment(**urls.good)
    register(NOWHERE)
    with ExitStack() as stack:
        logs = {name: tmp_path / f"{name}.log" for name in programs}
        for name, (arguments, url, _) in programs.items():
            stack.enter_context(program(logs[name], *arguments, REDIS_URL=url))
        # A task whose database refuses, and then is not there
        environment(DATABASE_URL=urls.database["a password"])
        worker = stack.enter_context(Worker(tmp_path))
        app = create_celery_app()
        stack.callback(app.close)
        result = app.send_task("email_service.tasks.sync_emails", ("a", TENANT, USER), queue="sync")
        wait_until(lambda: result.state == "RETRY", "the task is not tried again")
        for name, (_, _, words) in programs.items():
            wait_until(lambda log=logs[name], words=words: words in log.read_text(), f"{name} does not say {words}")
        seen = {name: log.read_text() for name, log in logs.items()}
        seen |= {
            "the task's worker": worker.log.read_text(),
            "the result": repr(app.backend.get_task_meta(result.id)),
        }
    assert "password authentication failed" in seen["the result"]
    assert {name: told(text) for name, text in seen.items() if told(text)} == {}


def test_no_piece_is_in_what_a_command_says_of_postgresql(
    urls: Urls, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "IS_HOST", True)
    for what, url in urls.database.items():
        environment(**{**urls.good, "DATABASE_URL": url})
        done = CliRunner().invoke(cli.main, ["account", "list", "--tenant", TENANT])
        assert done.exit_code == 1, what
        assert isinstance(done.exception, SystemExit), (what, done.exception)
        assert told(done.output) == set(), what
        assert what != "signs" or "DATABASE_URL: cannot be read as it is meant" in done.output
