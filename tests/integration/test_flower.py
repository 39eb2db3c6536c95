"""A real Flower: strangers are answered nothing, wrong logins are slowed down, and what systemd is told is true."""

import base64
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from celery import Celery
from celery.events import EventDispatcher
from redis.exceptions import RedisError

from native.health import flower_answers
from native.ports import free_port
from native.state import ROOT
from tasks.monitoring import flower_events
from tasks.monitoring.throttle import OF_ADDRESS
from tasks.registry import QUEUES
from tasks.runtime import systemd
from tests.support.application import application
from tests.support.debians_redis import TlsRedis
from tests.support.service_manager import Manager
from tests.support.worker import wait_until
from tests.unit.runtime.broker.test_fanout import BAD, SECRET, published

LOGIN = "admin:sample: a password % with # in it"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ENCODED = base64.b64encode(LOGIN.encode()).decode()
NOT_LOGINS = (
    "",
    "Basic",
    "Basic !",
    "Bearer abc",
    "Digest username=admin",
    f"basic{ENCODED}",
    f"Basic {ENCODED[:-4]}!===",
)
MAX_STATUS_SECONDS = 10  # until the status is true
_PREFIX = "watch"


class Flower:
    """Started as the native stack starts it."""

    def __init__(self, port: int, manager: Manager, log: Path) -> None:
        self.port, self.log = port, log
        self.manager = manager

    def ask(
        self, path: str, login: str | None = None, *, method: str = "GET", source: str = "127.0.0.1", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """The status, the headers by lower-case name, and the body."""
        if login is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=(source, 0))
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def status(self, path: str, login: str | None = None, **options: str) -> int:
        return self.ask(path, login, **options)[0]


@pytest.fixture(scope="module")
def tls_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRedis]:
    with TlsRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def flower(tls_redis: TlsRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """On a site with TLS."""
    folder, port = tmp_path_factory.mktemp("flower"), free_port()
    manager = Manager(folder / "notify")
    environment = {**os.environ, **tls_redis.variables, "FLOWER_BASIC_AUTH": LOGIN, "PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-m", "celery", "-A", "tasks.celery_app:celery_app", "flower")
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--address=127.0.0.1", f"--port={port}", f"--url-prefix={_PREFIX}"],
            cwd=folder, env={**environment, "NOTIFY_SOCKET": manager.path}, stdout=out, stderr=out,
        )  # fmt: skip
        try:
            wait_until(manager.is_ready, "Flower does not say that it has started")
            yield Flower(port, manager, log)
        finally:
            process.terminate()
            process.wait(30)
            manager.close()
            print(log.read_text())


def test_it_has_started_when_its_pages_answer(flower: Flower) -> None:
    assert flower.status(f"/{_PREFIX}/workers", LOGIN) == 200  # at once, and not when it is asked again


def test_it_asks_redis_how_long_the_queues_are(flower: Flower, tls_redis: TlsRedis) -> None:
    with tls_redis.client() as client:
        client.rpush("send", "one", "two")
        try:
            status, _, body = flower.ask(f"/{_PREFIX}/api/queues/length", LOGIN)
        finally:
            client.delete("send")
    assert status == 200
    lengths = {queue["name"]: queue["messages"] for queue in json.loads(body)["active_queues"]}
    assert lengths["send"] == 2
    assert {*lengths} == {*QUEUES}


def heartbeat(server: TlsRedis, worker: str) -> None:
    """An event of a worker, as Celery sends it."""
    tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": server.variables["REDIS_SSL_CA_CERTS"]}
    app = Celery(broker=server.variables["REDIS_URL"], broker_use_ssl=tls, set_as_current=False)
    with app.connection() as connection, EventDispatcher(connection, hostname=worker, app=app) as dispatcher:
        dispatcher.send("worker-heartbeat", freq=2, active=0, processed=0, loadavg=[0, 0, 0])


def test_its_status_is_true_and_it_hears_workers_again_after_an_outage(flower: Flower, tls_redis: TlsRedis) -> None:
    for trouble in ("silent", "away"):
        wait_until(lambda: flower.manager.status() == "Hears the workers", "it hears nothing")
        pid, began = tls_redis.pid, time.monotonic()
        if trouble == "silent":
            os.kill(pid, signal.SIGSTOP)
        else:
            tls_redis.stop()
        try:
            wait_until(lambda: flower.manager.status().startswith("Hears nothing, the broker fails: "), trouble)
            assert time.monotonic() - began < MAX_STATUS_SECONDS
        finally:
            if trouble == "silent":
                os.kill(pid, signal.SIGCONT)
            else:
                tls_redis.start()
        wait_until(lambda: flower.manager.status() == "Hears the workers", f"{trouble}: it hears nothing any more")
        heartbeat(tls_redis, f"after@{trouble}")
        online = f'flower_worker_online{{worker="after@{trouble}"}} 1.0'.encode()
        wait_until(
            lambda online=online: online in flower.ask(f"/{_PREFIX}/metrics", LOGIN)[2], f"{trouble}: no event"
        )


def test_its_status_is_true_when_another_question_is_the_first_without_an_answer(
    tls_redis: TlsRedis, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """kombu asks for more time for its queue after the first look and every 20 s, and no answer is no error."""
    told: list[tuple[float, str]] = []

    def notify(said: str) -> None:
        told.append((time.monotonic(), said))
        os.kill(tls_redis.pid, signal.SIGSTOP if said.startswith("STATUS=Hears the") else signal.SIGCONT)

    environment(**tls_redis.variables)
    monkeypatch.setattr(systemd, "notify", notify)
    with application() as app:
        try:
            with app.connection_for_read() as connection, pytest.raises(RedisError):
                flower_events.Receiver(connection, app, print, flower_events.Broker()).capture()
        finally:
            os.kill(tls_redis.pid, signal.SIGCONT)
    [(began, _), (ended, said)] = told
    assert said.startswith("STATUS=Hears nothing, the broker fails: ")
    assert ended - began < MAX_STATUS_SECONDS


def test_no_event_keeps_it_from_hearing_workers(flower: Flower, tls_redis: TlsRedis) -> None:
    wait_until(lambda: flower.manager.status() == "Hears the workers", "it hears nothing")
    said = len(flower.log.read_text())
    with tls_redis.client() as client:
        listeners = {found["id"] for found in client.client_list() if found["psub"] != "0"}
        for body in BAD:
            client.publish("/0.celeryev/worker.heartbeat", published(body))
        heartbeat(tls_redis, "after@events")
        online = b'flower_worker_online{worker="after@events"} 1.0'
        wait_until(lambda: online in flower.ask(f"/{_PREFIX}/metrics", LOGIN)[2], "no event")
        # Over the same connection, and without their words
        assert {found["id"] for found in client.client_list() if found["psub"] != "0"} == listeners
    log = flower.log.read_text()[said:]
    assert SECRET not in log
    assert "Traceback" not in log


def paths() -> list[str]:
    """Each route of the Flower that is installed, with its variable part filled in."""
    from flower.urls import handlers

    patterns = [handler[0] if isinstance(handler, tuple) else handler.regex.pattern for handler in handlers]
    filled = [
        pattern.rstrip("$").replace("(.+)", "x").replace("(.*)", "css/flower.css").replace("/?", "")
        for pattern in patterns
    ]
    return [path if path.startswith("/") else f"/{path.replace('.*', 'nothing')}" for path in filled]


def test_no_page_answers_a_stranger(flower: Flower) -> None:
    assert {"/metrics", "/healthcheck", "/static/css/flower.css", "/login", "/api/workers", "/nothing"} <= {*paths()}
    for path in paths():
        for prefix in (f"/{_PREFIX}", ""):
            for method in METHODS:
                status, headers, body = flower.ask(prefix + path, method=method)
                assert status == 401, (method, path)
                assert headers["www-authenticate"] == 'Basic realm="flower"'
                assert body in (b"", b"Access denied\n"), (method, path)
                assert "set-cookie" not in headers
    for path in (
        f"/{_PREFIX}/metrics",
        "//metrics",
        "/%6detrics",
        f"/{_PREFIX}/../metrics",
        f"/{_PREFIX}/metrics?a=b",
    ):
        for header in NOT_LOGINS:
            assert flower.status(path, Authorization=header) == 401, (path, header)


def test_pages_answer_with_the_password(flower: Flower) -> None:
    for path in ("/", "/workers", "/metrics", "/healthcheck", "/static/css/flower.css", "/api/task/types"):
        assert flower.status(f"/{_PREFIX}{path}", LOGIN) == 200, path
    assert flower.status(f"/{_PREFIX}/nothing", LOGIN) == 404


def test_what_a_stranger_uploads_is_not_waited_for(flower: Flower) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", flower.port, timeout=10)
    connection.putrequest("POST", f"/{_PREFIX}/api/task/apply/x")
    connection.putheader("Content-Length", str(90_000_000))
    connection.endheaders(b"x" * 1000)
    assert connection.getresponse().status == 401
    connection.close()


def test_wrong_logins_are_slowed_down_and_the_right_one_is_not_for_long(flower: Flower) -> None:
    path, began = f"/{_PREFIX}/workers", time.monotonic()
    assert flower.status(path, LOGIN, source="127.0.0.2") == 200
    with ThreadPoolExecutor(8) as guessers:
        answers = list(guessers.map(lambda number: flower.ask(path, f"admin:guess {number}é"), range(200)))
    seconds = time.monotonic() - began
    statuses = [status for status, _, _ in answers]
    assert {*statuses} == {401, 429}
    assert OF_ADDRESS.at_once <= statuses.count(401) <= OF_ADDRESS.at_once + seconds / OF_ADDRESS.interval + 1
    waits = {int(headers["retry-after"]) for status, headers, _ in answers if status == 429}
    assert waits == {1}
    # Each that was looked at is a line of the log, as its other lines are.
    line = re.compile(r"(?m)^\[[^\]]+: WARNING/tasks\.monitoring\.flower_door\] a wrong login from 127\.0\.0\.1$")
    assert len(line.findall(flower.log.read_text())) >= statuses.count(401)
    # Not looked at, or it could be guessed on; from elsewhere it is.
    assert flower.status(path, LOGIN, source="127.0.0.2") == 200
    wait_until(lambda: flower.status(path, LOGIN) == 200, "the right password is kept out")


def test_health_says_what_answers_a_stranger(flower: Flower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_BASIC_AUTH", LOGIN)
    check = flower_answers(flower.port)
    assert not check.ok  # its pages are below a prefix here, so its password opens nothing
    assert "404" in check.detail
