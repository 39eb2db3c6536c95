"""Each secret planted, and repeated by its server once in each form: a person gets to see none of them.

One worker, with its log, its results, its rows, what the commands show, and Flower beside it.
"""

import html
import http.server
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis as redis_client
from celery.result import AsyncResult
from click.testing import CliRunner

from manage import account, cli, dlq, outbox
from native.ports import free_port
from tasks.celery_app import create_celery_app
from tasks.storage.accounts.grants import Grant, Secrets
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, USER, Database, register, sync
from tests.support.application import application
from tests.support.imap_faults import rewrite
from tests.support.imap_server import ImapServer
from tests.support.mailbox import Mailbox, message
from tests.support.pop3_server import Pop3Server
from tests.support.secret_forms import FORMS
from tests.support.servers import RedisServer
from tests.support.smtp_server import SmtpServer, reply
from tests.support.stored import rows
from tests.support.token_server import TokenServer, trusted
from tests.support.worker import Worker, wait_until

PASSWORD = 'im9"Zö\\p/%+ &<Qx7=Kt'
POP3_PASSWORD = 'po9"Zö\\p/%+ &<Qx7=Kt'
SMTP_PASSWORD = 'sm9"Zö\\p/%+ &<Qx7=Kt'
REFRESH_TOKEN = "1//0gRefresh-sample_ZxKq~vB.93=="
CLIENT_SECRET = "GOCSPX-sample/client+Secret~44"
API_KEY = "api-sample/Key+77~QwErTz"
FLOWER_PASSWORD = "flower-sample/Pass+word~55"
FLOWER_LOGIN = f"admin:{FLOWER_PASSWORD}"
SECRETS = (PASSWORD, POP3_PASSWORD, SMTP_PASSWORD, REFRESH_TOKEN, CLIENT_SECRET, API_KEY, FLOWER_PASSWORD)
NOWHERE = Mailbox("127.0.0.1", 9, "ada", "x")
INNOCENT = "the office is closed until Tuesday"
TASKS = "email_service.tasks"

Form = Callable[[str], str]


class Tokens(TokenServer):
    """Repeats one of the secrets that it was asked with: which of them and in what form, the client's id says."""

    def _token(self, form: dict[str, str]) -> Any:
        secret, _, name = form["client_id"].partition(": ")
        self.refuse(400, "invalid_grant", error_description=f"bad request {FORMS[name](form[secret])} you sent")
        return self.answer


class _Api(http.server.BaseHTTPRequestHandler):
    """A spam service that names its findings after the key it was called with, in one form after another."""

    forms: list[Form]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        found = {"score": 1, "required_score": 2, "symbols": {self.forms.pop()(API_KEY): {"score": 1}}}
        content = json.dumps(found).encode()
        self.send_response(200, f"key {API_KEY}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def spam_api(forms: list[Form]) -> Iterator[str]:
    """Where it is asked; `forms` are those that it has not used yet."""
    handler = type("Api", (_Api,), {"forms": forms})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/checkv2?key={urllib.request.quote(API_KEY, safe='')}"
        server.shutdown()


class Servers:
    """Servers that repeat a secret, in another form to each account, and where tokens are to be had.

    What goes wrong, does so before a login or after one. All end with the stack.
    """

    def __init__(self, stack: ExitStack, tokens: TokenServer, of_settings: Sequence[str]) -> None:
        self._stack = stack
        self.synced: list[Account] = []
        self.senders: list[Account] = []
        self._rules: list[Any] = []
        self._imap(of_settings)
        self._pop3()
        self._smtp()
        for secret in ("refresh_token", "client_secret"):
            for name in FORMS:
                held = Secrets(REFRESH_TOKEN, CLIENT_SECRET)
                grant = Grant("other", tokens.endpoint, f"{secret}: {name}", "mail", held)
                self._sync_from(NOWHERE, password=grant)

    def all_forms_were_used(self) -> bool:
        return {rule.hits for rule in self._rules} == {1}

    def _imap(self, of_settings: Sequence[str]) -> None:
        server = self._stack.enter_context(ImapServer(password=PASSWORD))
        server.inbox.append(message(1))
        self._rules.append(server.decline("AUTHENTICATE", f"NO [AUTHENTICATIONFAILED] {INNOCENT}", times=1))
        self._sync_from(server)
        answers = cycle((("AUTHENTICATE", "NO [AUTHENTICATIONFAILED]"), ("EXAMINE", "NO")))
        said = product(FORMS.values(), (PASSWORD, *of_settings))
        for (form, secret), (command, answer) in zip(said, answers, strict=False):
            self._rules.append(server.decline(command, f"{answer} {_line(form(secret))}", times=1))
            self._sync_from(server)

    def _pop3(self) -> None:
        server = self._stack.enter_context(Pop3Server("USER UIDL", password=POP3_PASSWORD))
        server.messages["a"] = message(1)
        answers = cycle((("PASS", "-ERR [AUTH]"), ("RETR", "-ERR")))
        for form, (command, answer) in zip(FORMS.values(), answers, strict=False):
            words = _escaped(f"{answer} {_line(form(POP3_PASSWORD))}")
            self._rules.append(server.on(command, rewrite(rb"(?s).+", words)))
            self._sync_from(server, protocol="pop3")

    def _smtp(self) -> None:
        server = self._stack.enter_context(SmtpServer(("AUTH PLAIN",), password=SMTP_PASSWORD))
        answers = cycle((("auth", "535-5.7.8"), ("rcpt", "550-5.1.1"), ("dot", "250-2.0.0")))
        settings = {"smtp_hostname": server.host, "smtp_port": server.port, "smtp_encryption": "none"}
        settings |= {"smtp_password": SMTP_PASSWORD, "sent_copies": "none", "email_address": "ada@example.org"}
        for form, (point, code) in zip(FORMS.values(), answers, strict=False):
            self._rules.append(server.on(point, reply(_reply(code, form(SMTP_PASSWORD)))))
            self.senders.append(register(NOWHERE, self._name(), **settings))

    def _sync_from(self, server: Mailbox, **changes: object) -> None:
        self.synced.append(register(server, self._name(), **changes))

    def _name(self) -> str:
        return f"account {len(self.synced) + len(self.senders)}"


def _line(words: str) -> str:
    """What has lines, in one."""
    return " ".join(words.splitlines())


def _reply(code: str, words: str) -> str:
    """A reply of as many lines as the words have, and one more."""
    lines = re.split(r"\r\n(?:535-5\.7\.8 )?", words)
    return "".join(f"{code} {line}\r\n" for line in lines) + code.replace("-", " ") + " it is said"


def _escaped(answer: str) -> bytes:
    return f"{answer}\r\n".encode().replace(b"\\", b"\\\\")


@contextmanager
def flower(folder: Path, port: int) -> Iterator[Path]:
    """Flower beside the worker; its log."""
    command = [sys.executable, "-m", "celery", "-A", "tasks.celery_app:celery_app", "flower"]
    command += ["--address=127.0.0.1", f"--port={port}", "--max_tasks=5000"]
    log = folder / "flower.log"
    with log.open("wb") as output:
        environment = {**os.environ, "FLOWER_BASIC_AUTH": FLOWER_LOGIN}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        wait_until(lambda: "Connected to" in log.read_text(), "Flower does not connect")
        yield log
    finally:
        process.terminate()
        process.wait(30)


def page(port: int, path: str) -> str:
    login = b64encode(FLOWER_LOGIN.encode()).decode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def squeezed(text: str) -> str:
    return re.sub(r"""\\[rn]|[\s\\"']""", "", text).casefold()


def told(text: str, secrets: Sequence[str] = SECRETS) -> list[str]:
    """The forms of secrets that are in a text; not by how the product looks for them."""
    unescaped = re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)
    seen = "\0".join(map(squeezed, (text, unescaped, html.unescape(text), html.unescape(unescaped))))
    return [name for name, form in FORMS.items() for secret in secrets if squeezed(form(secret)) in seen]


@pytest.mark.parametrize("show", [str, repr, json.dumps, html.escape], ids=["plain", "repr", "json", "html"])
def test_the_search_would_find_each_form(show: Callable[[str], str]) -> None:
    for name, form in FORMS.items():
        assert name in told(show(f"a line with {form(PASSWORD)} in it"))


@pytest.fixture
def tokens(environment: Callable[..., None], tmp_path: Path) -> Iterator[Tokens]:
    certificate, issued = trusted(tmp_path)
    environment(SSL_CERT_FILE=str(certificate), MAIL_ALLOWED_NETWORKS="127.0.0.0/8,::1/128")
    with Tokens(issued) as server:
        yield server


def everything_in_redis(server: RedisServer) -> str:
    """Every value of every key, of the broker and of the results."""
    found = []
    for number in range(2):
        with redis_client.Redis(port=server.port, password=server.password, db=number) as client:
            for key in client.scan_iter():
                read = {b"string": client.get, b"hash": client.hgetall, b"list": lambda k: client.lrange(k, 0, -1)}
                found.append(repr(read.get(client.type(key), lambda k: None)(key)))
    return "\n".join(found)


def everything_in_rows() -> str:
    # A table with partitions is read by its own name.
    listed = rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition"
    )
    names = {name for (name,) in listed} - {"alembic_version", "mail_watcher"}  # of no tenant
    return "\n".join(str(rows(f"SELECT t::text FROM {name} AS t")) for name in sorted(map(str, names)))


def everything_from_commands(monkeypatch: pytest.MonkeyPatch) -> str:
    """What an operator sees of accounts, mails and dead letters, on the servers of the test."""
    for module in (account, dlq, outbox):
        monkeypatch.setattr(module, "connect", lambda **_: None)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli.main, arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    tenant = ("--tenant", TENANT)
    with application():  # another one may know the Redis of an earlier test
        shown = [run("account", "list", "--json", *tenant), run("account", "list", *tenant), run("dlq", "list")]
        shown += [run("outbox", "list", *tenant), run("outbox", "list", "--state", "sent", *tenant)]
        letters = json.loads(run("dlq", "list", "--json"))
        shown += [run("dlq", "show", letter["id"]) for letter in letters]
    return "\n".join(shown)


def test_no_secret_that_a_server_repeats_is_seen_anywhere(
    database: Database,
    redis: RedisServer,
    environment: Callable[..., None],
    tokens: Tokens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ExitStack() as stack:
        for_api = list(FORMS.values())
        api = stack.enter_context(spam_api(for_api))
        environment(
            REDIS_URL=redis.url, TASK_RETRY_MAX_DELAY="1", SMTP_RETRIES="0", SPAM_API_ENABLED="true", SPAM_API_URL=api
        )
        # Given servers that repeat secrets, one account and one form each
        # The passwords of Redis and PostgreSQL too, as those of the settings are known in every task.
        database_password = urlsplit(database.worker_url).password
        assert database_password
        of_settings = redis.password, database_password
        servers = Servers(stack, tokens, of_settings)
        good = stack.enter_context(ImapServer())
        good.inbox.append(message(1))
        sync(register(good, "good"))
        ((email_id,),) = rows("SELECT id FROM email_message")

        # When a worker meets them all
        app = create_celery_app()
        stack.callback(app.close)
        port = free_port()
        flower_log = stack.enter_context(flower(tmp_path, port))
        worker = stack.enter_context(Worker(tmp_path, 2, options=("--without-gossip", "--without-mingle", "-E")))

        def queue(task: str, queue: str, *args: object, **kwargs: object) -> AsyncResult:
            return app.send_task(f"{TASKS}.{task}", args, kwargs, queue=queue)

        results = [queue("sync_emails", "sync", a.id, TENANT, USER) for a in servers.synced]
        results += [queue("send_email", "send", a.id, TENANT, USER, ["bo@example.net"]) for a in servers.senders]
        results += [queue("check_spam", "spam", email_id, TENANT, USER) for _ in FORMS]
        for result in results:
            result.get(timeout=120, propagate=False)
        wait_until(lambda: not for_api, "the spam service has not been asked for each form")
        wait_until(
            lambda: len(json.loads(page(port, "/api/tasks?limit=5000"))) >= len(results),
            "Flower has not seen all tasks",
        )

        assert servers.all_forms_were_used()
        os.kill(worker.pid, signal.SIGUSR1)  # it says what all its threads are at
        wait_until(lambda: "MainThread" in worker.log.read_text(), "the worker does not say what it is at")

        # Then nobody sees a secret
        tasks = json.loads(page(port, "/api/tasks?limit=5000"))
        seen = {
            "the log": worker.log.read_text(),
            "Flower's log": flower_log.read_text(),
            "results": everything_in_redis(redis),
            "rows": everything_in_rows(),
            "commands": everything_from_commands(monkeypatch),
            "Flower's API": json.dumps(tasks),
            "Flower's pages": "\n".join(page(port, f"/task/{uuid}") for uuid in list(tasks)[:40]),
        }
        found = {where: told(text, (*SECRETS, *of_settings)) for where, text in seen.items()}
        assert {where: forms for where, forms in found.items() if forms} == {}
        # but what was wrong, and words that hold none
        states = {result.state for result in results}
        assert {"FAILURE", "SUCCESS"} <= states
        for where in ("the log", "results", "rows", "Flower's API"):
            assert INNOCENT in seen[where], where
        assert seen["rows"].count("its answer repeats a secret") >= 5 * len(FORMS)
