"""A real Prometheus with the rules and the console, fed by the real exporters. A browser looks at it, and a real
Alertmanager delivers what fires."""

import http.server
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from redis.exceptions import ResponseError

from native.errors import StackError
from native.ports import LOOPBACK
from native.postgres import SUPERUSER, libpq
from native.state import ROOT
from tasks.monitoring import totals
from tasks.registry import SYNC_EMAILS
from tasks.runtime.outcomes import Outcome
from tasks.runtime.scheduler import LAST_RUNS, TICKED
from tests.conftest import Database, unavailable
from tests.integration.faults.conftest import broker
from tests.integration.test_exporter import exporter, fill_postgresql, fill_redis, server
from tests.support.chromium import Chromium
from tests.support.exporter import LOGIN, Exporter
from tests.support.prometheus import WITH_SHARE, Alertmanager, DebiansServer, Prometheus, program
from tests.support.servers import RedisServer
from tests.support.smtp_server import SmtpServer
from tests.support.worker import wait_until

__all__ = ["exporter", "server"]

MONITORING = ROOT / "monitoring"
ROWS = yaml.safe_load((MONITORING / "dashboard.yml").read_text())["rows"]
# These servers do not encrypt (tests/integration/test_certificates.py).
OF_TLS, CERTIFICATES = "metabuilder_certificate_seconds", "For how long certificates are valid"
# No host has their backups, and Redis has no Sentinel: the names are those that tests/unit/roles/test_backup_watch.py
# writes, and those of Debian's exporter.
OF_OTHER_SITES = {
    *("metabuilder_backup_ok", "metabuilder_backup_timestamp_seconds", "metabuilder_backup_first_timestamp_seconds"),
    *("metabuilder_restore_drill_ok", "metabuilder_restore_drill_timestamp_seconds"),
    *("redis_sentinel_master_status", "redis_sentinel_master_sentinels"),
    *("redis_sentinel_master_ok_sentinels", "redis_sentinel_master_ok_slaves"),
}
METRIC = re.compile(r"\b(?:metabuilder|node|pg|redis)_\w+")
ALERT, SUMMARY = (
    "MetabuilderQueueStandsStill",
    "No task of the queue delete began within 2 minutes, though messages wait",
)
RUNBOOK = "docs/troubleshooting.md#tasks-are-not-processed"
KEPT = "keep_firing_for: 2m"
SMTP_PASSWORD, TOKEN = "sample: of smtp", "sample-token"
# What a browser shows of each graph: its title, how many lines it has, what stands below, what went wrong.
SHOWN = """
  Array.from(document.querySelectorAll("section"), section => ({
    title: section.querySelector("h3").textContent,
    lines: section.querySelectorAll("polyline").length,
    words: Array.from(section.querySelectorAll("li, p"), item => item.textContent),
    errors: section.querySelectorAll(".critical").length,
  }))
"""


class Site(NamedTuple):
    """What runs; `notifications` is what the webhook was told by whoever has its token."""

    prometheus: Prometheus
    mail: SmtpServer
    notifications: list[dict[str, Any]]


class _Webhook(http.server.BaseHTTPRequestHandler):
    def __init__(self, notifications: list[dict[str, Any]], *of_the_request: Any) -> None:
        self._notifications = notifications
        super().__init__(*of_the_request)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        knows = self.headers["Authorization"] == f"Bearer {TOKEN}"
        if knows:
            self._notifications.append(json.loads(body))
        self.send_response(200 if knows else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def webhook(notifications: list[dict[str, Any]]) -> Iterator[str]:
    """A receiver of webhooks, for the block; its URL."""
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), partial(_Webhook, notifications)) as receiver:
        threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield f"http://{LOOPBACK}:{receiver.server_address[1]}/"
        finally:
            receiver.shutdown()


def alertmanager(folder: Path, smtp_port: int, url: str) -> Alertmanager:
    """Alertmanager with monitoring/alertmanager.yml, filled in, and without its waiting."""
    configuration = (MONITORING / "alertmanager.yml").read_text()
    for words, meant in {
        "SMTP_SERVER:587": f"{LOOPBACK}:{smtp_port}",
        "SMTP_USER": "ada",
        "SENDER": "metabuilder@example.org",
        "RECIPIENT": "operator@example.org",
        "WEBHOOK_URL": url,
        "/etc/prometheus/": f"{folder}/",
        "group_wait: 30s": "group_wait: 0s",
        "group_interval: 5m": "group_interval: 1s",
    }.items():
        assert words in configuration
        configuration = configuration.replace(words, meant)
    (folder / "alertmanager-smtp-password").write_text(SMTP_PASSWORD)
    (folder / "alertmanager-webhook-token").write_text(TOKEN)
    filled = yaml.safe_load(configuration)
    filled["global"]["smtp_require_tls"] = False
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(filled))
    return Alertmanager(folder)


@pytest.fixture
def site(exporter: Exporter, server: RedisServer, database: Database, tmp_path: Path) -> Iterator[Site]:
    try:
        program("prometheus")
    except StackError as error:
        unavailable(str(error))
    if subprocess.run([*WITH_SHARE[:3], "true"], check=False).returncode:
        unavailable("namespaces are not allowed here")
    user, _, password = LOGIN.partition(":")
    kept = [f"--collector.{name}" for name in ("disable-defaults", "meminfo", "filesystem", "time")]
    url = f"{libpq(database.server.url(SUPERUSER, database.name))}?sslmode=disable"
    folder = tmp_path / "servers"
    folder.mkdir()
    exporters = [
        DebiansServer(folder, "prometheus-node-exporter", *kept),
        DebiansServer(folder, "prometheus-postgres-exporter", environment={"DATA_SOURCE_NAME": url}),
        DebiansServer(folder, "prometheus-redis-exporter", f"--redis.addr={server.url}"),
    ]
    login = {"basic_auth": {"username": user, "password": password}}
    ports: dict[str, tuple[int, dict[str, Any]]] = {other.name: (other.port, {}) for other in exporters}
    ports["metabuilder"] = (exporter.port, login)
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [f"{LOOPBACK}:{port}"]}], **more}
        for name, (port, more) in ports.items()
    ]
    notifications: list[dict[str, Any]] = []
    with ExitStack() as running:
        mail = running.enter_context(SmtpServer(password=SMTP_PASSWORD))
        delivery = alertmanager(folder, mail.port, running.enter_context(webhook(notifications)))
        rules, console = tmp_path / "alerts.yml", MONITORING / "console.html"
        written = (MONITORING / "alerts.yml").read_text()
        assert KEPT in written
        rules.write_text(written.replace(KEPT, "keep_firing_for: 2s"))  # two scrapes
        prometheus = Prometheus(tmp_path / "prometheus", jobs, rules, console, delivery.port)
        for one in (*exporters, delivery, prometheus):
            running.enter_context(one)
        yield Site(prometheus, mail, notifications)


def fill(server: RedisServer, database: Database) -> None:
    fill_postgresql(database)
    with broker(server) as client:
        client.set(TICKED, time.time())
        client.hset(LAST_RUNS, "cleanup-stale-tasks-hourly", time.time() - 10)
        client.lpush("delete", '{"due": 1.000000, "body": ""}')
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            client.incr("delete")


def work(server: RedisServer, counted: totals.Totals) -> None:
    """A worker reports, runs a task and tells of it. The report is there for 15 s."""
    counted.add("ended", SYNC_EMAILS, Outcome.RETRY)
    counted.add("redelivered", SYNC_EMAILS)
    counted.add("error", SYNC_EMAILS, "server_busy")
    counted.observe(3, "run", SYNC_EMAILS, Outcome.RETRY)
    counted.observe(3, "wait", SYNC_EMAILS)
    with broker(server) as client:
        fill_redis(client)
        counted.tell(client)
        totals.add(client, {("sync", "synced"): 1, ("sync", "bytes"): 100, ("outbox", "sent"): 1})
        totals.add(client, {("server", "imap", "google", "server_busy"): 1})


def wait_for_scrapes(prometheus: Prometheus) -> None:
    since_now = f"up == 1 and timestamp(up) > {time.time()}"
    wait_until(lambda: len(prometheus.ask("query", query=since_now)["result"]) == 4, "not all are scraped")


def is_firing(prometheus: Prometheus) -> bool:
    found = prometheus.ask("alerts")["alerts"]
    return any((one["labels"]["alertname"], one["state"]) == (ALERT, "firing") for one in found)


def test_what_prometheus_shows_and_tells(site: Site, server: RedisServer, database: Database, tmp_path: Path) -> None:
    # Every metric that the rules and graphs name is told
    prometheus, counted = site.prometheus, totals.Totals()
    fill(server, database)
    work(server, counted)
    wait_for_scrapes(prometheus)
    named = METRIC.findall((MONITORING / "alerts.yml").read_text() + (MONITORING / "dashboard.yml").read_text())
    assert {*named} - {*prometheus.ask("label/__name__/values")} == {OF_TLS, *OF_OTHER_SITES}

    # An alert is delivered by e-mail and to the webhook
    def told(status: str) -> list[dict[str, Any]]:
        alerts = [alert for notification in list(site.notifications) for alert in notification["alerts"]]
        return [one for one in alerts if one["labels"]["alertname"] == ALERT and one["status"] == status]

    wait_until(lambda: told("firing"), "the webhook hears nothing")
    assert told("firing")[0]["labels"].items() >= {"queue": "delete", "severity": "critical"}.items()
    assert told("firing")[0]["annotations"] == {"summary": SUMMARY, "runbook": RUNBOOK}
    wait_until(lambda: f"FIRING: {ALERT}" in site.mail.taken(), "no mail arrives")
    text = next(taken.raw for taken in site.mail.messages if ALERT.encode() in taken.raw).decode()
    assert f"critical: {SUMMARY}" in text.replace("=\r\n", "")
    assert f"what to do: {RUNBOOK}" in text.replace("=\r\n", "")

    # The page shows it, and lines in every graph
    def go_on() -> bool:
        work(server, counted)
        wait_for_scrapes(prometheus)
        return is_firing(prometheus)

    # On a busy machine a scrape may have been without the queue, which ends the alert until the next one.
    def prepare() -> None:
        wait_until(go_on, "the alert does not fire any more")
        # Graphs end at the last whole second, so that what was scraped since is not in them.
        wait_for_scrapes(prometheus)

    shown, alerts, asked = look(prometheus, tmp_path / "chromium", prepare)
    assert SUMMARY in alerts
    assert [graph["title"] for graph in shown] == [panel["title"] for row in ROWS for panel in row["panels"]]
    assert [graph["title"] for graph in shown if graph["errors"]] == []
    assert [graph["title"] for graph in shown if not graph["lines"]] == [CERTIFICATES]
    assert "■ delete: 1" in next(graph["words"] for graph in shown if graph["title"] == "Messages that wait")
    # Grafana asks the same of this Prometheus, and names lines by labels that they have
    assert {title: said for title, said in of_grafana(prometheus).items() if said} == {CERTIFICATES: "no line"}
    assert {url for url in asked if not url.startswith(f"http://{LOOPBACK}:{prometheus.port}/")} == set()

    # The end of the fault is told, too
    with broker(server) as client:
        client.delete("delete")
    wait_until(lambda: told("resolved"), "the webhook does not hear of the end")
    wait_until(lambda: f"RESOLVED: {ALERT}" in site.mail.taken(), "no mail tells of the end")


def of_grafana(prometheus: Prometheus) -> dict[str, str]:
    """What is wrong with the answers to each panel of the dashboard for Grafana, of the last hour; "" if nothing."""
    found = {}
    for panel in json.loads((MONITORING / "grafana.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            end = time.time()
            answer = prometheus.ask(
                "query_range", query=target["expr"], start=str(end - 3600), end=str(end), step="15"
            )
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            lacking = [line["metric"] for line in answer["result"] if not named <= line["metric"].keys()]
            found[panel["title"]] = f"no {named} in {lacking}" if lacking else "" if answer["result"] else "no line"
    return found


def look(
    prometheus: Prometheus, profile: Path, prepare: Callable[[], None]
) -> tuple[list[dict[str, Any]], str, list[str]]:
    """What the console shows of the graphs and of the alerts, and the URLs that it asked for.

    `prepare` is called when the browser has started.
    """
    try:
        with Chromium(profile, prometheus.port) as browser:
            browser.call("Network.enable")
            prepare()
            # A graph of an hour has a point in 15 s, so that what lasts no longer is seen.
            page = f"http://{LOOPBACK}:{prometheus.port}/consoles/metabuilder.html#1%20hour"
            browser.call("Page.navigate", url=page)
            wait_until(lambda: browser.evaluate("document.body?.dataset.shown"), "the page shows nothing")
            browser.picture("console")
            asked = [
                event["params"]["request"]["url"]
                for event in browser.events
                if event["method"] == "Network.requestWillBeSent"
            ]
            alerts = browser.evaluate("document.querySelector('#alerts').textContent")
            return browser.evaluate(SHOWN), alerts, asked
    except StackError as error:
        unavailable(str(error))
        raise
