"""A real Prometheus with the rules and the console, fed by the real exporters, in a browser."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.exceptions import ResponseError

from native.errors import StackError
from native.ports import LOOPBACK
from native.postgres import SUPERUSER, libpq
from native.state import ROOT
from tasks.monitoring import totals
from tasks.registry import SYNC_EMAILS
from tasks.runtime.scheduler import LAST_RUNS, TICKED
from tasks.runtime.signals import Outcome
from tests.conftest import Database, unavailable
from tests.integration.faults.conftest import broker
from tests.integration.test_exporter import LOGIN, Exporter, exporter, fill_postgresql, fill_redis, server
from tests.support.chromium import Chromium
from tests.support.prometheus import DebiansExporter, Prometheus
from tests.support.servers import RedisServer
from tests.support.worker import wait_until

__all__ = ["exporter", "server"]

MONITORING = ROOT / "monitoring"
ROWS = yaml.safe_load((MONITORING / "dashboard.yml").read_text())["rows"]
# Prometheus's own.
OF_PROMETHEUS = {"up"}
METRIC = re.compile(r"\b(?:metabuilder|node|pg|redis)_\w+")
# What a browser shows of each graph: its title, how many lines it has, what stands below, what went wrong.
SHOWN = """
  Array.from(document.querySelectorAll("section"), section => ({
    title: section.querySelector("h3").textContent,
    lines: section.querySelectorAll("polyline").length,
    words: Array.from(section.querySelectorAll("li, p"), item => item.textContent),
    errors: section.querySelectorAll(".critical").length,
  }))
"""


def named() -> set[str]:
    """The metrics that the rules and the graphs ask for."""
    return {*METRIC.findall((MONITORING / "alerts.yml").read_text() + (MONITORING / "dashboard.yml").read_text())}


@pytest.fixture
def prometheus(
    exporter: Exporter,
    server: RedisServer,
    database: Database,
    tmp_path: Path,
) -> Iterator[Prometheus]:
    user, _, password = LOGIN.partition(":")
    kept = [f"--collector.{name}" for name in ("disable-defaults", "meminfo", "filesystem", "time")]
    url = f"{libpq(database.server.url(SUPERUSER, database.name))}?sslmode=disable"
    folder = tmp_path / "exporters"
    folder.mkdir()
    others = [
        DebiansExporter(folder, "prometheus-node-exporter", *kept),
        DebiansExporter(folder, "prometheus-postgres-exporter", environment={"DATA_SOURCE_NAME": url}),
        DebiansExporter(folder, "prometheus-redis-exporter", f"--redis.addr={server.url}"),
    ]
    with ExitStack() as running:
        try:
            for other in others:
                running.enter_context(other)
            jobs: list[dict[str, Any]] = [
                {"job_name": other.name, "static_configs": [{"targets": [f"{LOOPBACK}:{other.port}"]}]}
                for other in others
            ]
            jobs.append(
                {
                    "job_name": "metabuilder",
                    "basic_auth": {"username": user, "password": password},
                    "static_configs": [{"targets": [f"{LOOPBACK}:{exporter.port}"]}],
                }
            )
            rules, console = MONITORING / "alerts.yml", MONITORING / "console.html"
            yield running.enter_context(Prometheus(tmp_path / "prometheus", jobs, rules, console))
        except StackError as error:
            unavailable(str(error))


def fill(server: RedisServer, database: Database) -> None:
    fill_postgresql(database)
    with broker(server) as client:
        fill_redis(client)
        client.set(TICKED, time.time())
        client.hset(LAST_RUNS, "cleanup-stale-tasks-hourly", time.time() - 10)
        client.lpush("delete", '{"due": 1.000000, "body": ""}')
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            client.incr("delete")


def work(server: RedisServer, counted: totals.Totals) -> None:
    """A worker runs a task and tells of it."""
    counted.add("ended", SYNC_EMAILS, Outcome.RETRY)
    counted.add("redelivered", SYNC_EMAILS)
    counted.add("error", SYNC_EMAILS, "server_busy")
    counted.observe(3, "run", SYNC_EMAILS, Outcome.RETRY)
    counted.observe(3, "wait", SYNC_EMAILS)
    with broker(server) as client:
        counted.tell(client)


def wait_for_scrapes(prometheus: Prometheus) -> None:
    since_now = f"up == 1 and timestamp(up) > {time.time()}"
    wait_until(lambda: len(prometheus.ask("query", query=since_now)["result"]) == 4, "not all are scraped")


def test_graphs_and_alerts_in_a_browser(
    prometheus: Prometheus,
    server: RedisServer,
    database: Database,
    tmp_path: Path,
) -> None:
    counted = totals.Totals()
    fill(server, database)
    work(server, counted)

    # Every metric is told
    wait_for_scrapes(prometheus)
    assert named() - {*prometheus.ask("label/__name__/values")} == set()

    # An alert fires, with its words
    def firing() -> dict[str, dict[str, str]]:
        found = prometheus.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["annotations"] for alert in found if alert["state"] == "firing"}

    alert, summary = (
        "MetabuilderQueueStandsStill",
        "No task of the queue delete began within 2 minutes, though messages wait",
    )
    wait_until(lambda: alert in firing(), "no alert fires")
    assert firing()[alert] == {"summary": summary, "runbook": "docs/troubleshooting.md#tasks-are-not-processed"}

    # The page shows it, and lines in every graph
    work(server, counted)
    wait_for_scrapes(prometheus)
    try:
        with Chromium(tmp_path / "chromium", prometheus.port) as browser:
            browser.call("Network.enable")
            # A graph of an hour has a point in 15 s, so that what lasts no longer is seen.
            page = f"http://{LOOPBACK}:{prometheus.port}/consoles/metabuilder.html#1%20hour"
            browser.call("Page.navigate", url=page)
            wait_until(lambda: browser.evaluate("document.body?.dataset.shown"), "the page shows nothing")
            shown = browser.evaluate(SHOWN)
            alerts = browser.evaluate("document.querySelector('#alerts').textContent")
            asked = [
                event["params"]["request"]["url"]
                for event in browser.events
                if event["method"] == "Network.requestWillBeSent"
            ]
    except StackError as error:
        unavailable(str(error))
    assert summary in alerts
    assert [graph["title"] for graph in shown] == [panel["title"] for row in ROWS for panel in row["panels"]]
    assert [graph for graph in shown if graph["errors"] or not graph["lines"]] == []
    words = {graph["title"]: graph["words"] for graph in shown}
    assert "■ delete: 1" in words["Messages that wait"]
    assert {url for url in asked if not url.startswith(f"http://{LOOPBACK}:{prometheus.port}/")} == set()
