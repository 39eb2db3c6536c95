"""SpamAssassin's spamd and Rspamd, the real ones, beside the rules; and both when they are down or misbehave."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from benchmarks.support.engines import Rspamd, Spamd
from native.errors import StackError
from native.ports import LOOPBACK, free_port
from tasks import spam
from tasks.celery_app import ask_spam_engines, check_spam, sync_emails
from tasks.errors import SpamEngineUnavailableError
from tasks.mail.spam.engines import HTTP_API, MAX_MESSAGE_BYTES, SPAMD, ask_http, ask_spamd
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, USER, sync, unavailable
from tests.support.application import application
from tests.support.certificates import Authority
from tests.support.mailbox import Mailbox
from tests.support.servers import RedisServer
from tests.support.spam import letter, with_file
from tests.support.stored import rows
from tests.support.worker import Worker, wait_until

# Every engine knows it as spam; the rules do not.
GTUBE = letter("XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X", Subject="GTUBE")
HAM = letter("See you on Friday.", Subject="Ham")
TIMEOUT = 20


@pytest.fixture(scope="module")
def spamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spamd]:
    yield from _running(Spamd(tmp_path_factory.mktemp("spamd")))


@pytest.fixture(scope="module")
def rspamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rspamd]:
    yield from _running(Rspamd(tmp_path_factory.mktemp("rspamd")))


def _running(server):
    try:
        server.start()
    except StackError as error:
        unavailable(str(error))
    yield server
    server.stop()


@pytest.fixture
def answering() -> Iterator[Callable[[bytes | None], int]]:
    """A server that answers each client with the same bytes, or with None keeps them waiting; its port."""
    listeners = []

    def start(answer: bytes | None) -> int:
        listener = socket.create_server((LOOPBACK, 0))
        listeners.append(listener)

        def serve() -> None:
            waiting = []
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                if answer is None:
                    waiting.append(client)
                    continue
                client.settimeout(2)
                with client, contextlib.suppress(OSError):
                    client.recv(1 << 20)
                    client.sendall(answer)
                    # Closed with something unread, the connection would be reset and the answer lost.
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(1 << 20):
                        pass

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def stored() -> dict[object, tuple[float, list[str], str]]:
    found = rows("SELECT subject, spam_score, spam_indicators, id FROM email_message")
    return {subject: (score, [i["rule"] for i in indicators], key) for subject, score, indicators, key in found}


def ask(account: Account) -> dict[str, object]:
    return ask_spam_engines.apply(args=(account.id, TENANT, USER)).get()


def test_spamd_tells_spam_from_ham(spamd: Spamd) -> None:
    spam = ask_spamd(GTUBE, spamd.host, spamd.port, TIMEOUT)
    assert (spam.engine, spam.score) == (SPAMD, 1.0)
    assert "GTUBE" in spam.detail
    ham = ask_spamd(HAM, spamd.host, spamd.port, TIMEOUT)
    assert ham.score is not None
    assert ham.score < 0.5


def test_rspamd_tells_spam_from_ham(rspamd: Rspamd) -> None:
    spam = ask_http(GTUBE, rspamd.url, TIMEOUT)
    assert (spam.engine, spam.score) == (HTTP_API, 0.5), "its points are its limit"
    assert "GTUBE" in spam.detail
    ham = ask_http(HAM, rspamd.url, TIMEOUT)
    assert ham.score is not None
    assert ham.score < 0.5


def test_check_spam_asks_both(account: Account, mailbox: Mailbox, environment, spamd: Spamd, rspamd: Rspamd) -> None:
    mailbox.append([GTUBE])
    sync(account)
    environment(SPAMD_HOST=spamd.host, SPAMD_PORT=str(spamd.port), SPAM_API_ENABLED="true", SPAM_API_URL=rspamd.url)
    ((score, rules, key),) = stored().values()
    assert (score, rules) == (0.0, [])

    result = check_spam.apply(args=(key, TENANT, USER)).get()

    assert (result["is_spam"], result["spam_score"]) == (True, 1.0)
    assert [indicator["rule"] for indicator in result["indicators"]] == [SPAMD, HTTP_API]
    assert stored()["GTUBE"] == (1.0, [SPAMD, HTTP_API], key)


def test_after_a_sync_each_new_message_is_asked_about_once(
    account: Account, mailbox: Mailbox, environment, spamd: Spamd
) -> None:
    environment(SPAMD_HOST=spamd.host, SPAMD_PORT=str(spamd.port))
    many = [letter("Hello.", Subject=f"Ham {n}", Message_ID=f"<{n}@x>") for n in range(25)]
    files = with_file("data.bin", b"\0" * MAX_MESSAGE_BYTES)
    mailbox.append([GTUBE, *many, files])
    mailbox.create("Sent")
    mailbox.append([letter("Hello.", Subject="Mine")], "Sent")
    sync(account)

    assert ask(account) == {"status": "success", "messages_checked": 27}

    found = stored()
    assert {subject for subject, (_, rules, _) in found.items() if SPAMD not in rules} == {"Mine"}
    assert found["GTUBE"][0] == 1.0
    ((detail,),) = rows(
        "SELECT indicator->>'detail' FROM email_message, jsonb_array_elements(spam_indicators) AS indicator "
        "WHERE attachment_count = 1"
    )
    assert "not asked" in detail
    assert ask(account) == {"status": "success", "messages_checked": 0}


def test_a_sync_has_the_engines_asked(
    account: Account, mailbox: Mailbox, environment, redis: RedisServer, spamd: Spamd, tmp_path: Path
) -> None:
    environment(REDIS_URL=redis.url, SPAMD_HOST=spamd.host, SPAMD_PORT=str(spamd.port))
    mailbox.append([GTUBE, HAM])
    with application() as app, Worker(tmp_path):
        app.send_task(sync_emails.name, (account.id, TENANT, USER), queue="sync").get(timeout=90)
        wait_until(lambda: all(SPAMD in rules for _, rules, _ in stored().values()), "spamd was not asked")
    assert stored()["GTUBE"][0] == 1.0


def test_what_is_left_when_the_time_is_used_up_is_handed_on(
    account: Account, mailbox: Mailbox, environment, spamd: Spamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(SPAMD_HOST=spamd.host, SPAMD_PORT=str(spamd.port))
    mailbox.append(letter("Hello.", Subject=f"Ham {n}", Message_ID=f"<{n}@x>") for n in range(10))
    sync(account)
    queued: list[tuple[object, ...]] = []
    monkeypatch.setattr(spam, "_BUDGET_SHARE", 1e-9)
    monkeypatch.setattr(ask_spam_engines, "delay", lambda *arguments: queued.append(arguments))
    assert ask(account)["status"] == "handed_on"
    assert queued == [(account.id, TENANT, USER)]


def test_old_mail_is_left_alone(account: Account, mailbox: Mailbox, environment, spamd: Spamd) -> None:
    environment(SPAMD_HOST=spamd.host, SPAMD_PORT=str(spamd.port))
    mailbox.append([HAM])
    sync(account)
    rows("UPDATE email_message SET received_at = now() - interval '8 days' RETURNING id")
    assert ask(account) == {"status": "success", "messages_checked": 0}


def test_an_engine_that_is_down_leaves_it_to_the_rules_and_says_so(
    account: Account, mailbox: Mailbox, environment
) -> None:
    port = free_port()
    environment(
        SPAMD_HOST=LOOPBACK, SPAMD_PORT=str(port), SPAM_API_ENABLED="true", SPAM_API_URL=f"http://{LOOPBACK}:{port}/x"
    )
    mailbox.append([letter("Verify your account within 24 hours.", From="PayPal <service@example.org>")])
    sync(account)
    ((score, rules, key),) = stored().values()

    assert ask(account)["status"] == "engine_unavailable"
    ((unchanged, _, _),) = stored().values()
    result = check_spam.apply(args=(key, TENANT, USER)).get()

    assert (result["spam_score"], result["is_spam"]) == (score, score >= 0.5) == (unchanged, True)
    said = [indicator for indicator in result["indicators"] if indicator["rule"] == "engine_unavailable"]
    assert len(said) == 2
    assert all(indicator["weight"] == 0 and LOOPBACK in indicator["detail"] for indicator in said)
    assert rules == [i["rule"] for i in result["indicators"] if i["rule"] != "engine_unavailable"]


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"SPAMD/1.1 zero\r\n\r\n", b"x" * 300_000, None],
    ids=["nothing", "another protocol", "no status", "endless", "silence"],
)
def test_a_spamd_that_makes_no_sense_is_not_there(answering, answer: bytes | None) -> None:
    with pytest.raises(SpamEngineUnavailableError):
        ask_spamd(HAM, LOOPBACK, answering(answer), 1)


@pytest.mark.parametrize("answer", [b"SPAMD/1.0 76 Bad header line\r\n\r\n", b"SPAMD/1.1 0 EX_OK\r\n\r\n"])
def test_a_spamd_without_an_opinion(answering, answer: bytes) -> None:
    opinion = ask_spamd(HAM, LOOPBACK, answering(answer), 5)
    assert opinion.score is None
    assert "no opinion" in opinion.detail


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1/\r\n\r\n",
     b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.1 200 OK\r\n\r\n[]", b'HTTP/1.1 200 OK\r\n\r\n{"score": 1}',
     b'HTTP/1.1 200 OK\r\n\r\n{"score": "many", "required_score": 5}', b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000,
     b"nonsense", b"", None],
)  # fmt: skip
def test_a_service_that_makes_no_sense_is_not_there(answering, answer: bytes | None) -> None:
    with pytest.raises(SpamEngineUnavailableError) as error:
        ask_http(HAM, f"http://user:hunter2@{LOOPBACK}:{answering(answer)}/check", 1)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (b'{"score": 7.5, "required_score": 15, "symbols": {"A": {"score": 1}, "B": null}}', 0.25),
        (b'{"score": -3, "required_score": 15}', 0.0),
        (b'{"score": 99, "required_score": 15}', 1.0),
        (b'{"score": 0, "required_score": 15, "is_skipped": true}', None),
        (b'{"score": 1, "required_score": 0}', None),
    ],
)
def test_points_become_a_score(answering, answer: bytes, score: float | None) -> None:
    port = answering(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + answer)
    assert ask_http(HAM, f"http://{LOOPBACK}:{port}/check", 5).score == score


@pytest.mark.parametrize("is_trusted", [True, False])
def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trusted: bool) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("service", LOOPBACK)
    service = HTTPServer((LOOPBACK, 0), _Service)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    service.socket = context.wrap_socket(service.socket, server_side=True)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    url = f"https://{LOOPBACK}:{service.server_port}/check"
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    try:
        if is_trusted:
            assert ask_http(HAM, url, 5).score == 0.5
        else:
            with pytest.raises(SpamEngineUnavailableError):
                ask_http(HAM, url, 5)
    finally:
        service.shutdown()
        service.server_close()


class _Service(BaseHTTPRequestHandler):
    """Calls everything half a spam."""

    def do_POST(self) -> None:  # the name that http.server looks for
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"score": 5, "required_score": 5}')

    def log_message(self, *_: object) -> None:
        pass
