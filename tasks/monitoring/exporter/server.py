"""The exporter's pages: the status page (/) and /metrics for whoever has the login of Flower, /healthz and /readyz
for everybody.

/healthz says whether work is done: each queue is consumed, as canaries show. /readyz says whether the site works, for
who watches it or waits for it after a deployment: the same, and PostgreSQL answers (readiness.py). Whether the
exporter itself lives, systemd's watchdog knows (listener.py).

Each request is answered by a thread of its own (listener.py), whose questions to Redis and PostgreSQL are bounded in
time.
"""

import logging
import math
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from celery import Celery
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry

from tasks.monitoring.exporter.collector import SiteCollector
from tasks.monitoring.exporter.listener import Listener
from tasks.monitoring.exporter.login import Door
from tasks.monitoring.exporter.page import content_security_policy, render
from tasks.monitoring.exporter.readiness import Readiness
from tasks.monitoring.exporter.status import StatusReader
from tasks.monitoring.flower_door import UNAUTHORIZED
from tasks.runtime import systemd

_logger = logging.getLogger(__name__)

_PLAIN, _HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"
_OF_A_PAGE = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class Page(NamedTuple):
    """An answer. `headers` come in addition to the type of its content."""

    status: str
    body: bytes
    content_type: str = _PLAIN
    headers: tuple[tuple[str, str], ...] = ()


class Site:
    """The pages, as a WSGI application (PEP 3333)."""

    def __init__(self, app: Celery, logins: Sequence[str]) -> None:
        self._registry, self._readiness = CollectorRegistry(), Readiness(app)
        self._registry.register(SiteCollector(app))
        self._status = StatusReader(app, self._readiness)
        self._door = Door(logins)

    def __call__(self, request: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        page = self._page(request)
        start_response(page.status, [("Content-Type", page.content_type), *page.headers])
        return [] if request["REQUEST_METHOD"] == "HEAD" else [page.body]

    def _page(self, request: dict[str, Any]) -> Page:
        if request["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return Page("405 Method Not Allowed", b"Only GET and HEAD\n", headers=(("Allow", "GET, HEAD"),))
        path = request["PATH_INFO"]
        if path == "/healthz":
            return _verdict(self._readiness.problems_of_queues())
        if path == "/readyz":
            return _verdict(self._readiness.problems())
        if refusal := self._refusal(request):
            return refusal
        if path == "/metrics":
            return Page("200 OK", generate_latest(self._registry), CONTENT_TYPE_LATEST)
        if path == "/":
            policy = "Content-Security-Policy", content_security_policy()
            return Page("200 OK", render(self._status.read()), _HTML, (policy, *_OF_A_PAGE))
        return Page("404 Not Found", b"There are /, /metrics, /healthz and /readyz\n")

    def _refusal(self, request: dict[str, Any]) -> Page | None:
        """What to answer to whoever has no login; None where it has one."""
        status, wait = self._door.judge(request.get("HTTP_AUTHORIZATION"), request.get("REMOTE_ADDR", ""))
        if status == UNAUTHORIZED:
            challenge = ("WWW-Authenticate", 'Basic realm="metabuilder"')
            return Page("401 Unauthorized", b"Access denied\n", headers=(challenge,))
        if status:
            retry = ("Retry-After", str(math.ceil(wait)))
            return Page("429 Too Many Requests", b"Access denied\n", headers=(retry,))
        return None


def _verdict(problems: Iterable[str]) -> Page:
    if text := "".join(f"{problem}\n" for problem in problems):
        return Page("503 Service Unavailable", text.encode())
    return Page("200 OK", b"ok\n")


def serve(app: Celery, address: str, port: int, logins: Sequence[str]) -> None:
    """Serve the pages until SIGTERM or SIGINT."""
    with Listener(address, port, Site(app, logins)) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: _stop(server))
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        _logger.warning("metrics are served on http://%s/metrics", place)
        systemd.notify("READY=1", f"STATUS=Serves on {place}")
        server.serve_forever()


def _stop(server: Listener) -> None:
    # `shutdown` waits for `serve_forever`, which this handler interrupts.
    threading.Thread(target=server.shutdown).start()
