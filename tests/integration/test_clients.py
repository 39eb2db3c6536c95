"""`redis-cli` and `psql`: they reach the right server, and change nothing unless they are told to."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import redis as redis_client
from click.testing import CliRunner, Result

from manage import cli, session
from native.postgres import wheel_binaries
from native.state import ROOT
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, Database
from tests.support.servers import RedisServer
from tests.support.stored import rows

READS = {
    "GET word": '"value"',
    "get word": '"value"',
    "LRANGE list 0 -1": '1) "a"\n2) "b"',
    "LLEN list": "(integer) 2",
    "GET nothing": "(nil)",
    "LRANGE nothing 0 -1": "(empty array)",
    "GET odd": r'"\x1b[2J\xff"',
    "EXISTS word": "(integer) 1",
    "OBJECT ENCODING list": '"listpack"',
    "MEMORY USAGE nothing": "(nil)",
    "PING": '"PONG"',
    "CLIENT ID": "(integer) ",
    "SCAN 0 COUNT 1000": '1) "0"\n2) 1) "',
    "INFO replication": '"# Replication',
}
REFUSED = (
    *("SET word other", "set word other", "DEL word", "FLUSHALL", "GETDEL word", "GETEX word EX 1", "LPUSH list c"),
    *("EVAL 'return 1' 0", "CONFIG SET maxmemory 1", "CONFIG GET requirepass", "CONFIG", "CLIENT KILL TYPE normal"),
    *("KEYS *", "MONITOR", "SUBSCRIBE a", "PUBLISH a b", "SHUTDOWN", "DEBUG SLEEP 1", "ACL LIST", "MULTI", "AUTH x"),
    *("SORT list STORE other", "RENAME word other", "BLPOP list 1", "SELECT 1", "SCRIPT KILL", "WAIT 1 1"),
)


@pytest.fixture
def client(
    redis: RedisServer, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis_client.Redis]:
    environment(REDIS_URL=redis.url)
    monkeypatch.setattr(session, "IS_HOST", True)  # the environment is that of the test
    with redis_client.Redis(port=redis.port, password=redis.password) as client:
        client.mset({"word": "value", "odd": b"\x1b[2J\xff"})
        client.rpush("list", "a", "b")
        yield client


def run(*arguments: str, given: str = "") -> Result:
    done = CliRunner().invoke(cli.main, ("redis-cli", *arguments), input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.mark.parametrize("command", READS)
def test_what_reads_is_answered(client: redis_client.Redis, command: str) -> None:
    done = run(*command.split())
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(READS[command])


def test_what_may_change_something_is_refused(client: redis_client.Redis) -> None:
    before = {key: client.dump(key) for key in client.scan_iter()}
    done = run(given="\n".join(REFUSED))
    assert done.exit_code == 1
    assert done.stderr.count("is run with --write only") == len(REFUSED)
    assert done.stdout == ""
    assert {key: client.dump(key) for key in client.scan_iter()} == before


def test_with_write_all_commands_are_run(client: redis_client.Redis) -> None:
    done = run("--write", "SET", "word", "two words")
    assert done.exit_code == 0, done.stderr
    assert client.get("word") == b"two words"


def test_lines_of_standard_input_are_run_one_by_one(client: redis_client.Redis) -> None:
    done = run(given="GET word\n\nGET 'unbalanced\nNONSENSE\nGET list\nLLEN list\n")
    assert done.exit_code == 1
    assert done.stdout == '"value"\n(integer) 2\n'
    assert "No closing quotation" in done.stderr
    assert "Redis does not know the command NONSENSE" in done.stderr
    assert "Redis refuses GET: WRONGTYPE" in done.stderr


def test_the_results_are_in_their_own_database(client: redis_client.Redis, redis: RedisServer) -> None:
    with redis_client.Redis(port=redis.port, password=redis.password, db=1) as results:
        results.set("a-result", "1")
    assert run("GET", "a-result").stdout == "(nil)\n"
    assert run("--results", "GET", "a-result").stdout == '"1"\n'


@pytest.fixture
def psql(database: Database, account: Account) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    environment = {"METABUILDER_COMMAND": "metabuilder", "PATH": f"{wheel_binaries()}:{os.environ['PATH']}"}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = (sys.executable, "-m", "manage", "psql", *arguments)
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def test_psql_sees_the_rows_of_a_tenant_and_changes_none(
    psql: Callable[..., "subprocess.CompletedProcess[str]"], account: Account
) -> None:
    count = ("-Atc", "SELECT count(*), current_user FROM email_client")
    assert psql(*count).stdout == "0|metabuilder_worker\n"
    assert psql("--tenant", TENANT, *count).stdout == "1|metabuilder_worker\n"
    assert psql("--tenant", r"o'ther \ tenant", "-Atc", "SHOW metabuilder.tenant_id").stdout == "o'ther \\ tenant\n"

    change = ("-c", "UPDATE email_client SET account_name = 'changed'")
    refused = psql("--tenant", TENANT, *change)
    assert refused.returncode == 1
    assert "cannot execute UPDATE in a read-only transaction" in refused.stderr
    changed = psql("--tenant", TENANT, "--write", *change)
    assert changed.stdout == "UPDATE 1\n", changed.stderr
    assert rows("SELECT account_name FROM email_client") == [("changed",)]


def test_psql_shows_no_password_to_other_users(
    psql: Callable[..., "subprocess.CompletedProcess[str]"], database: Database, account: Account
) -> None:
    shown = psql("-Atc", r"\! tr '\0' ' ' < /proc/$PPID/cmdline").stdout
    assert "psql -X -Atc" in shown
    assert database.server.postgres.passwords.worker not in shown


def test_psql_waits_for_no_server_that_is_silent(
    psql: Callable[..., "subprocess.CompletedProcess[str]"], database: Database, environment: Callable[..., None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        environment(DATABASE_URL=database.worker_url.replace(f":{database.server.port}/", f":{port}/"))
        done = psql("-c", "SELECT 1")
    assert done.returncode == 2
    assert "timeout expired" in done.stderr


def test_a_machine_without_psql_is_said(
    psql: Callable[..., "subprocess.CompletedProcess[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "manage", "psql"),
        cwd=ROOT,
        env={**os.environ, "METABUILDER_COMMAND": "metabuilder", "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: psql is not installed here. As root, run: apt-get install postgresql-client\n"
