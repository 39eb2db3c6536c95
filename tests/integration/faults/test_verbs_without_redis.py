"""Each verb that needs Redis says in one line what is wrong with it, in bounded time, and exits with 1."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis as redis_client
from celery.exceptions import ImproperlyConfigured
from celery.exceptions import TimeoutError as NoResultError
from celery.result import AsyncResult, GroupResult
from redis.backoff import NoBackoff
from redis.retry import Retry

from native import stores
from native.ports import free_port
from native.state import State, write_json
from tasks import celery_app
from tasks.errors import BrokerUnavailableError, ResultsUnavailableError
from tasks.registry import SYNC_EMAILS
from tasks.runtime import results
from tasks.storage import dead_letters
from tasks.storage.accounts.rows import NewAccount, add_account, find_account
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import broker as connection_to
from tests.support.application import application
from tests.support.servers import RedisServer
from tests.support.stored import rows
from tests.support.verbs import Verb, run_all

# What is said of each trouble, and what to do; the variable is the one that its address comes from.
SAID = {
    "stopped": ("cannot be reached", "Start it", "check {variable}"),
    "silent": ("does not answer", "network"),
    "wrong password": ("refuses the user or password", "password in {variable}"),
    "full": ("is full", "maxmemory"),
    "read-only": ("is a replica", "Set {variable} to the primary"),
    "loading": ("is loading its data", "Wait"),
    "out of clients": ("has as many clients as it takes", "maxclients"),
}
MAX_PUBLISH_SECONDS = 10
# One that an older parser read.
OLD_MESSAGE = (
    "INSERT INTO email_folder (tenant_id, id, email_client_id, path, name, type) "
    f"VALUES ('{TENANT}', 'inbox', :account, 'INBOX', 'INBOX', 'inbox')",
    "INSERT INTO email_message "
    "(tenant_id, id, email_client_id, folder_id, uidvalidity, imap_uid, subject, headers, size, parser_version) "
    f"VALUES ('{TENANT}', 'old', :account, 'inbox', 1, 1, '', '{{}}', 1, 1)",
)
LETTER = dead_letters.Failure(
    task_key="key", task_name="email_service.tasks.sync_emails", task_id="task-1", user_id=USER, shown_arguments={},
    error_code="server_busy", error="not now", traceback="", attempts=1,
)  # fmt: skip
VERBS = {
    "sync": ["sync", "mail", "--tenant", TENANT],
    "send": ["send", "mail", "--tenant", TENANT, "--to", "a@example.org", "--text", "x"],
    "list": ["dlq", "list"],
    "look": ["queue:list", "sync"],
    "flush": ["queue:flush", "spam", "--yes"],
    "cli": ["redis-cli", "LLEN", "sync"],
}
# With these troubles alone, the last two with a silent Redis.
MORE = ("stopped", "silent", "wrong password", "full")
MORE_VERBS = {
    "follow": ["sync", "mail", "--tenant", TENANT, "--follow"],
    "reread": ["reread", "--tenant", TENANT],
}
# Whose result store has the trouble, while the broker is well: the end of the task would never be seen.
RESULTS_TAKE_NOTHING = ("full", "read-only")
OF_RESULTS = {
    **{f"result {trouble}": MORE_VERBS["follow"] for trouble in RESULTS_TAKE_NOTHING},
    **{f"result-send {trouble}": VERBS["send"] for trouble in ("full", "stopped", "silent")},
}
# Of a native stack that has its own Redis as the broker.
OF_RESULTS_IN_A_CLONE = {
    **{f"result-demo {trouble}": ["demo"] for trouble in ("full", "stopped", "silent")},
    "result-up wrong password": ["up"],
}
ONCE = {"reread-follow": ["reread", "--tenant", TENANT, "--follow"], "rotate": ["credentials", "rotate"]}
# Of the dead letter whose id is added.
DECIDE = {"retry": ["dlq", "retry"], "drop": ["dlq", "drop", "--yes"]}
# Of the native stack, in a clone; each with a state folder of its own.
IN_A_CLONE = {"up": ["up"], "demo": ["demo"], "rotate-own": ["credentials", "rotate"]}
# What looks needs no room and writes nothing; what drops makes room.
WORKS_WHILE = {"full": ("list", "drop", "look", "flush", "cli"), "read-only": ("list", "look", "cli")}
# A task may be queued of these though nobody answered.
IN_DOUBT = ("sync", "send", "follow", "reread", "reread-follow")


class Loading(RedisServer):
    """One that reads its file for a minute or more, and counts as started while it does."""

    def start(self) -> None:
        self.root.mkdir(parents=True)
        self.redis.init()
        (self.redis.folder / "appendonly.aof").write_text(
            "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n" + "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nx\r\n" * 900_000
        )
        super().start()

    def command(self) -> list[str]:
        return [*super().command(), "--key-load-delay", "100"]

    def is_ready(self) -> bool:
        retry = Retry(NoBackoff(), 0)
        with redis_client.Redis(port=self.port, password=self.password, socket_timeout=2, retry=retry) as client:
            try:
                client.ping()
            except redis_client.exceptions.BusyLoadingError:
                return True
            except redis_client.RedisError:
                return False
        raise AssertionError("it has loaded already")


@contextmanager
def silenced(server: RedisServer) -> Iterator[None]:
    with connection_to(server) as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URL of a Redis in each trouble."""
    root = tmp_path_factory.mktemp("troubled")
    with ExitStack() as stack:
        well, full, replica, loading, busy = (
            stack.enter_context(kind(root / name))
            for name, kind in (
                ("well", RedisServer),
                ("full", RedisServer),
                ("replica", RedisServer),
                ("loading", Loading),
                ("busy", RedisServer),
            )
        )
        with connection_to(full) as client:
            client.config_set("maxmemory", "1")
        with connection_to(replica) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
        stack.enter_context(connection_to(busy)).config_set("maxclients", "1")  # the one that says so
        stack.enter_context(silenced(well))
        yield {
            "stopped": f"redis://127.0.0.1:{free_port()}",
            "silent": well.url,
            "wrong password": f"redis://:wrong@127.0.0.1:{full.port}",
            "full": full.url,
            "read-only": replica.url,
            "loading": loading.url,
            "out of clients": busy.url,
        }


@pytest.fixture
def letters(database: Database) -> dict[str, str]:
    """An account, and a dead letter for each verb and trouble: their ids."""
    new = NewAccount("mail", "ada@example.org", "127.0.0.1", 9, "none", "ada", "x")
    add_account(TENANT, USER, new._replace(smtp_hostname="127.0.0.1", smtp_port=9, smtp_encryption="none"))
    names = [f"{verb} {trouble}" for verb in DECIDE for trouble in SAID]
    for name in names:
        dead_letters.bury(TENANT, LETTER._replace(task_key=name), ("account", TENANT, USER), {})
    account = find_account(TENANT, "mail").id
    for insert in OLD_MESSAGE:
        rows(f"{insert} RETURNING 1", account=account)
    return dict(zip(names, (letter.id for letter in dead_letters.list_letters()), strict=True))


def in_a_clone(folder: Path, redis_url: str, database: Database) -> dict[str, str]:
    """The variables of a command that runs beside a native stack that was started once, and has keys of its own."""
    state = State(folder)
    state.create()
    known = {"DATABASE_URL": database.worker_url, "DATABASE_OWNER_URL": database.owner_url, "REDIS_URL": redis_url}
    write_json(state.environment, {**known, "CREDENTIAL_ENCRYPTION_KEY": os.environ["CREDENTIAL_ENCRYPTION_KEY"]})
    here = {"METABUILDER_COMMAND": "", "METABUILDER_STATE": str(folder), "CREDENTIAL_ENCRYPTION_KEY": ""}
    return {**known, **here}


def each_verb(
    letters: dict[str, str], troubled: dict[str, str], redis: RedisServer, database: Database, tmp_path: Path
) -> dict[str, Verb]:
    """By the name of the verb and of the trouble."""
    verbs = {}
    for trouble, url in troubled.items():
        for verb, arguments in VERBS.items():
            verbs[f"{verb} {trouble}"] = Verb(arguments, {"REDIS_URL": url})
        for verb, arguments in DECIDE.items():
            name = f"{verb} {trouble}"
            verbs[name] = Verb([*arguments, letters[name]], {"REDIS_URL": url})
    for trouble in MORE:
        for verb, arguments in MORE_VERBS.items():
            verbs[f"{verb} {trouble}"] = Verb(arguments, {"REDIS_URL": troubled[trouble]})
        for verb, arguments in IN_A_CLONE.items():
            folder = tmp_path / f"{verb} {trouble}"
            verbs[folder.name] = Verb(arguments, in_a_clone(folder, troubled[trouble], database))
    for verb, arguments in ONCE.items():
        verbs[f"{verb} silent"] = Verb(arguments, {"REDIS_URL": troubled["silent"]})
    for name, arguments in OF_RESULTS.items():
        results = troubled[name.partition(" ")[2]]
        verbs[name] = Verb(arguments, {"REDIS_URL": redis.url, "CELERY_RESULT_BACKEND": results})
    for name, arguments in OF_RESULTS_IN_A_CLONE.items():
        results = troubled[name.partition(" ")[2]]
        clone = {**in_a_clone(tmp_path / name, "", database), "CELERY_RESULT_BACKEND": results}
        verbs[name] = Verb(arguments, clone)
    return verbs


def test_each_verb_says_what_is_wrong(
    letters: dict[str, str], troubled: dict[str, str], redis: RedisServer, database: Database, tmp_path: Path
) -> None:
    """All at once, as most of them wait."""
    verbs = each_verb(letters, troubled, redis, database, tmp_path)
    for name, ended in run_all(tmp_path / "said", verbs).items():
        verb, _, trouble = name.partition(" ")
        assert "Traceback" not in ended.stderr, (name, ended)
        # On a host, keys need no Redis.
        if verb == "rotate" or verb in WORKS_WHILE.get(trouble, ()):
            assert ended.status == 0, (name, ended)
            continue
        if verb == "reread":  # noted in PostgreSQL: it begins later
            assert ended.status == 0, (name, ended)
            [line] = [line for line in ended.lines if line.startswith("The messages are read again once Redis takes")]
        else:
            assert ended.status == 1, (name, ended)
            *bar, line = filter(None, ended.lines)  # a bar of progress leaves an empty one
            assert len(bar) == (verb == "result"), (name, ended)  # and the bar, where it was drawn
            assert line.startswith("error: "), (name, ended)
        assert urlsplit(troubled[trouble]).netloc.rpartition("@")[2] in line, (name, ended)
        is_of_results = verb.startswith("result")
        variable = "CELERY_RESULT_BACKEND" if is_of_results else "REDIS_URL"
        assert ("The result store (Redis at " in line) == is_of_results, (name, ended)
        if is_of_results and trouble == "full":
            assert "queues" not in line, (name, ended)
        assert all(words.format(variable=variable) in line for words in SAID[trouble]), (name, ended)
        is_in_doubt = trouble == "silent" and verb in IN_DOUBT
        assert ("may be queued" in line) == is_in_doubt, (name, ended)
    # And nothing was made or started
    assert not [*tmp_path.glob("* */supervisord.conf"), *tmp_path.glob("* */demo")]
    known = {letter.id for letter in dead_letters.list_letters()}
    assert [name for name, letter in letters.items() if letter not in known] == ["drop full"]


@pytest.mark.parametrize("trouble", SAID)
def test_publishing_ends_in_the_documented_error_and_soon(
    trouble: str, troubled: dict[str, str], database: Database, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL=troubled[trouble])
    began = time.monotonic()
    with application() as app, pytest.raises(BrokerUnavailableError):
        app.tasks[SYNC_EMAILS].delay("account", TENANT, USER)
    assert time.monotonic() - began < MAX_PUBLISH_SECONDS


@pytest.mark.parametrize("trouble", SAID)
@pytest.mark.parametrize("role", ["REDIS_URL", "CELERY_RESULT_BACKEND"])
def test_health_says_what_is_wrong(
    trouble: str,
    role: str,
    troubled: dict[str, str],
    redis: RedisServer,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stores, "_SILENCE_SECONDS", 2)
    environment(**{"REDIS_URL": redis.url, role: troubled[trouble]})
    check = stores.redis_answers()
    assert not check.ok
    said = f"{check.detail}. {check.advice}"
    assert all(words.format(variable=role) in said for words in SAID[trouble]), said
    assert urlsplit(troubled[trouble]).netloc.rpartition("@")[2] in said


@pytest.mark.parametrize("trouble", ["stopped", "silent"])
def test_who_waits_for_a_result_bears_a_short_outage_and_is_told_of_a_long_one(
    trouble: str, tmp_path: Path, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_AWAY_SECONDS", 2)
    monkeypatch.setattr(celery_app, "_RESULT_SECONDS", 1)
    with RedisServer(tmp_path / "results") as server:
        environment(REDIS_URL=server.url)
        with application() as app, ThreadPoolExecutor() as threads:

            def wait_for(task_id: str) -> Future[object]:
                return threads.submit(AsyncResult(task_id, app=app).get, timeout=30)

            one, other = wait_for("one"), wait_for("other")
            time.sleep(0.1)
            server.restart()
            app.backend.store_result("one", 1, "SUCCESS")
            assert one.result(10) == 1
            with silenced(server) if trouble == "silent" else stopped(server):
                for waits in (other, wait_for("third")):
                    with pytest.raises(ResultsUnavailableError):
                        waits.result(15)
                with pytest.raises(ResultsUnavailableError):
                    GroupResult("group", [AsyncResult("one", app=app), AsyncResult("two", app=app)]).get(timeout=10)
            # The same process goes on
            app.backend.store_result("other", 2, "SUCCESS")
            assert wait_for("other").result(10) == 2
            with pytest.raises(NoResultError):
                AsyncResult("nobody's", app=app).get(timeout=0.1)


def test_who_wants_to_be_told_of_states_is_told_that_nobody_tells_them(
    redis: RedisServer, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL=redis.url)
    with application() as app:
        app.backend.store_result("done", 1, "SUCCESS")
        one = AsyncResult("done", app=app)
        for result in (one, GroupResult("group", [AsyncResult("done", app=app)])):
            with pytest.raises(ImproperlyConfigured, match="get_task_status"):
                result.get(timeout=10, on_message=print)
            assert result.get(timeout=10) in (1, [1])


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()
