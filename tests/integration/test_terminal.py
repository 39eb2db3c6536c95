"""No control character of servers and mail comes to the terminal, from any command: a real one, and a real worker."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from native.state import State
from tasks.errors import MessageRefusedError
from tasks.monitoring.report import WORKERS
from tasks.registry import QUEUES, REREAD_MESSAGES
from tasks.settings import get_settings
from tasks.storage.accounts.rows import Account, find_account
from tasks.storage.dead_letters import Failure, bury
from tasks.storage.events import tell
from tasks.storage.session import tenant_transaction
from tasks.storage.states import EventType
from tests.conftest import TENANT, USER, Database, register, sync
from tests.support.imap_server import QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.servers import RedisServer
from tests.support.smtp_server import SmtpServer, reply
from tests.support.stored import rows
from tests.support.terminal import Call, commands, on_a_terminal
from tests.support.worker import Worker

# Sets the title of the window, clears it, blinks, asks for the cursor's place, turns the line, ends it.
SENT = "\x1b]0;owned\x07\x1b[2J\x1b[35;5m\x9b6n\x7f\u202e\u200b\u2028[bold]"
SHOWN, IN_JSON = (
    r"\x1b]0;owned\x07\x1b[2J\x1b[35;5m\x9b6n\x7f\u202e",
    r"\u001b]0;owned\u0007\u001b[2J\u001b[35;5m\u009b6n\u007f",
)
# As somebody may have queued one: the ids of accounts and tenants are shown.
MESSAGE: dict[str, Any] = {
    "headers": {"task": REREAD_MESSAGES, "id": "1"},
    "body": json.dumps([[SENT, SENT, SENT], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
    "properties": {},
}
NAME, REFUSED, LOST = f"mail {SENT}", f"refused {SENT}", f"lost {SENT}"
# What Rich and Click send of their own: colours, and what draws bars anew.
_OURS = re.compile(
    r"\x1b\[(?:0|1|[39][0-7]|2[2-9]|38;5;\d+|38;2;[\d;]+|(?:[01];)?[39][0-7]|)(?:;[01])?m|\x1b\[\?25[hl]|\x1b\[[0-9]*[AKG]"
)
# Commands that say nothing of others' to the terminal, and why.
SAYS_NOTHING_OF_OTHERS = {
    **dict.fromkeys(("demo", "up", "down", "restart", "ps", "health"), "of servers that it starts itself"),
    **dict.fromkeys(("setup", "test", "bench", "lock", "release build", "docs"), "of the code in this clone"),
    **dict.fromkeys(("secrets init", "secrets renew"), "of the inventory"),
    **dict.fromkeys(
        ("version", "help", "completion", "credentials new-key", "credentials public-key"), "of this program"
    ),
    **dict.fromkeys(("beat:status", "beat:restart"), "of the schedule, whose times are numbers"),
    **dict.fromkeys(("queue:flush", "queue:status", "task:purge", "stats"), "counts"),
    **dict.fromkeys(("clean:logs", "clean:redis", "clean:db", "clean:all"), "counts"),
    **dict.fromkeys(("rebuild", "flower:open", "worker:reload", "worker:drain"), "of servers that it starts itself"),
    **dict.fromkeys(("dev:shell", "dev:test", "tasks registered"), "of the code in this clone"),
    "dev:logs": "the same as `logs`",
    "tasks active": "only while a worker reports it (tests/integration/test_task_verbs.py)",
    **dict.fromkeys(("tasks revoked", "task:revoke"), "only ids that are plain words"),
    "task:retry": "the same as `dlq retry`",
    "top": "only on a terminal of its own (tests/integration/test_top.py)",
    "release redis-commander": "of the code in this clone",
    "preflight": "only of a site (tests/unit/manage/test_preflight.py)",
    **dict.fromkeys(("redis:status", "redis:switchover"), "only of a site (tests/unit/manage/test_redis_site.py)"),
    **dict.fromkeys(("db:status", "db:switchover", "db:rebuild"), "only of a site (tests/unit/manage/test_db.py)"),
    **dict.fromkeys(
        ("backup list", "backup now", "backup verify"), "only of a site (tests/unit/manage/test_backup.py)"
    ),
    **dict.fromkeys(
        (*("webhook add", "webhook list", "webhook show"), *("webhook test", "webhook rotate", "webhook remove")),
        "URLs of printable ASCII, and our own words of what became of them",
    ),
    "event replay": "counts",
    "restore:settle": "counts",
    "outbox sent": "counts",
    "outbox resend": "counts",
    "dlq drop": "counts",
    "credentials rotate": "counts",
    "psql": "rows, as PostgreSQL's own program shows them",
    "account password": "what the operator has typed",
}


@pytest.fixture
def imap() -> Iterator[ImapServer]:
    with ImapServer(f"{QRESYNC} X-{SENT.replace(' ', '')}") as server:
        server.inbox.append(*(message(n) for n in range(1, 4)))
        server.add_folder(f"folder {SENT}").append(message(9))
        yield server


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        server.on("rcpt", reply(f"550 5.1.1 {SENT}"), where=b"eve@", times=None)
        yield server


@pytest.fixture
def account(
    database: Database,
    redis: RedisServer,
    environment: Callable[..., None],
    imap: ImapServer,
    smtp: SmtpServer,
    tmp_path: Path,
) -> Account:
    environment(REDIS_URL=redis.url, METABUILDER_STATE=str(tmp_path / "state"), COLUMNS="4000")
    sending = {
        "smtp_hostname": smtp.host,
        "smtp_port": smtp.port,
        "smtp_encryption": "none",
        "smtp_password": smtp.password,
    }
    account = register(imap, NAME, sent_copies="none", **sending)
    sync(account)
    return account


def fill(account: Account, imap: ImapServer, state: State) -> dict[str, str]:
    """What the commands have to show; ids by name."""
    from tasks.engine.send.draft import SendRequest
    from tasks.engine.send.outbox import send

    with pytest.raises(MessageRefusedError):
        send(SendRequest(account.id, TENANT, USER, ["eve@example.net"], subject="x"), "a-key", "a-run")
    for name in (REFUSED, LOST):
        register(imap, name)
    said = (
        "UPDATE email_client SET last_error = :sent, smtp_last_error = :sent WHERE account_name <> :name RETURNING 1"
    )
    rows(said, sent=f"NO {SENT}", name=NAME)
    lost = "UPDATE credential SET key_id = :key, ciphertext = :nothing WHERE id = :id RETURNING 1"
    rows(lost, key=f"gone {SENT}", nothing="nothing", id=find_account(TENANT, LOST).credential_id)
    failure = Failure(
        "key", f"task {SENT}", "id", USER, {"args": [SENT]}, f"code {SENT}", SENT, f"Traceback\n  {SENT}\n", 1
    )
    bury(TENANT, failure, (TENANT, USER), {})
    fill_redis()
    state.create()
    (state.logs / "worker.log").write_text(f"{SENT}\nnext line\n")
    (state.logs / "postgres.log").write_text(f"ERROR: {SENT}\n\tDETAIL: {SENT}\n")
    with tenant_transaction(TENANT) as connection:
        tell(connection, TENANT, account.id, EventType.FOLDER_CREATED, {"name": SENT, SENT: True})
    [(outbox_id,)], [(letter_id,)] = rows("SELECT id FROM outbox_message"), rows("SELECT id FROM dead_letter")
    [(event_id,)] = rows("SELECT id FROM event WHERE type = 'folder.created'")
    return {"outbox": str(outbox_id), "letter": str(letter_id), "event": str(event_id)}


def fill_redis() -> None:
    """A message on a queue, two in hand, the result of a task, and a worker that is down."""
    places = get_settings().redis
    error = {"exc_type": "WrongError", "exc_message": [SENT], "exc_module": "x"}
    failed = {"status": "FAILURE", "result": error, "traceback": None, "children": [], "task_id": "failed"}
    later = {**MESSAGE, "headers": {**MESSAGE["headers"], "eta": "2199-01-01T00:00:00+00:00"}}
    with redis_client.Redis.from_url(places.broker_url) as client:
        now = client.time()[0]
        client.lpush("reread", json.dumps(MESSAGE))
        client.rpush("words", SENT, SENT.encode("latin-1", "replace"))
        client.hset("unacked", mapping={"1": json.dumps([MESSAGE, "", "x"]), "2": json.dumps([later, "", "x"])})
        client.zadd("unacked_index", {"1": now, "2": now})
        client.zadd(WORKERS, {f"node {SENT}": now})
    with redis_client.Redis.from_url(places.result_backend) as client:
        client.set("celery-task-meta-failed", json.dumps(failed))


def calls(ids: dict[str, str]) -> list[Call]:
    """Each command that shows what others say, in the ways in which it does."""
    tenant, outbox, letter = ("--tenant", TENANT), ids["outbox"], ids["letter"]
    add = (
        "account",
        "add",
        "--email",
        "a@b.example",
        "--hostname",
        "mail.example",
        "--name",
        f"new {SENT}",
        "--password-stdin",
    )
    to_both = ("send", NAME, "--to", "bob@example.net", "--to", "eve@example.net", "--text", "hi", *tenant)
    return [
        Call(("account", "list", *tenant)),
        Call(("account", "list", "--json", *tenant)),
        Call(("account", "show", NAME, *tenant)),
        Call(("account", "show", NAME, "--json", *tenant)),
        Call(("account", "show", REFUSED, *tenant)),
        Call(("account", "show", f"none {SENT}", *tenant)),
        Call(("account", "audit", NAME, *tenant), expects="folder "),
        Call(("account", "audit", NAME, "--json", *tenant)),
        Call(("account", "test", NAME, *tenant), expects="The server offers: "),
        Call(("account", "test", REFUSED, *tenant), expects="logged in"),
        Call(("account", "all-mail", f"none {SENT}", "skip", *tenant)),
        Call(("account", "watch", f"none {SENT}", "off", *tenant)),
        Call(("account", "remove", REFUSED, *tenant), "n\n"),
        Call((*add, *tenant), "sample\n"),
        Call(("credentials", "keys")),
        Call(("credentials", "keys", "--json")),
        Call(("reread", "--dry-run", "--older-than", "30000", *tenant)),
        Call(("reread", "--status", *tenant)),
        Call(("reread", "--status", "--json", *tenant)),
        Call(("reread", "--where", f"{SENT} ~ x", *tenant)),
        Call(("outbox", "list", *tenant)),
        Call(("outbox", "list", "--json", *tenant)),
        Call(("outbox", "show", outbox, *tenant)),
        Call(("outbox", "show", outbox, "--json", *tenant)),
        Call(("outbox", "retry", outbox, *tenant)),
        Call(("event", "list", *tenant)),
        Call(("event", "list", "--json", *tenant)),
        Call(("event", "list", "--account", f"none {SENT}", *tenant)),
        Call(("event", "show", ids["event"], *tenant)),
        Call(("event", "show", ids["event"], "--json", *tenant)),
        Call(("dlq", "list")),
        Call(("dlq", "list", "--json")),
        Call(("dlq", "show", letter)),
        Call(("dlq", "show", letter, "--json")),
        Call(("dlq", "retry", letter)),
        Call(("tasks", "failed", "--json")),
        Call(("tasks", "reserved", "--limit", "5")),
        Call(("tasks", "scheduled", "--json")),
        Call(("task:status", "failed")),
        Call(("task:run", "check_spam", "--kwargs", json.dumps({SENT: 1})), expects="Error"),
        Call(("worker:ping",)),
        Call(("worker:info",)),
        Call(("worker:shutdown", f"none {SENT}")),
        Call(("queue:list", "reread")),
        Call(("queue:list", "reread", "--json")),
        Call(("redis-cli", "LRANGE", "words", "0", "-1")),
        Call(("logs", "worker")),
        Call(("logs",)),
        Call(("sync", NAME, "--full", "--follow", *tenant), expects="Nothing new"),
        Call(("sync", NAME, "--full", "--follow", "--json", *tenant)),
        Call(to_both, expects="was refused: "),
        Call((*to_both, "--json")),
        Call(("send", NAME, "--to", "eve@example.net", "--text", "hi", *tenant), expects="error:"),
        Call(("<watch>", SENT), expects="1/3 folders"),
        Call(("<log>", SENT)),
        Call(("<bug>", SENT)),
    ]  # fmt: skip


def test_every_command_has_a_case() -> None:
    """A new one needs a call above, or why it has nothing to show."""
    ids = {"outbox": "", "letter": "", "event": ""}
    tried = {
        name
        for name in commands()
        for call in calls(ids)
        if " ".join(call.arguments).startswith(f"{name} ") or [name] == [*call.arguments]
    }
    assert commands() - tried == set(SAYS_NOTHING_OF_OTHERS) - tried
    assert not tried & set(SAYS_NOTHING_OF_OTHERS)


def test_nothing_of_others_comes_to_the_terminal(account: Account, imap: ImapServer, tmp_path: Path) -> None:
    made = calls(fill(account, imap, State(tmp_path / "state")))
    with Worker(tmp_path, queues=",".join(QUEUES.keys() - {"reread"})) as worker:
        seen = on_a_terminal(made, tmp_path)
    log = worker.log.read_text()

    wrong = []
    for call, sent in zip(made, seen, strict=True):
        text = sent.decode()
        # What Rich writes in colours is cut by them.
        plain = _OURS.sub("", text)
        left = {char for char in plain if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")} - {"\r", "\n"}
        if left or "\x1b[35;5m" in text or not (SHOWN in plain or IN_JSON in plain) or call.expects not in plain:
            wrong.append((call.arguments[:3], left, text))
    assert not wrong
    assert SHOWN in log
    assert {unicodedata.category(char) for char in log} & {"Cc", "Cf", "Zl", "Zp"} == {"Cc"}
    assert not set(log) & {"\x1b", "\x9b", "\x7f", "\x07"}
