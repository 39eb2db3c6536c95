"""Reads Redis and PostgreSQL when it is scraped, and makes metrics of what they say; it keeps nothing.

A source that does not answer leaves out its own metrics, and is said by metabuilder_source_up.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any

from celery import Celery
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tasks.errors import codes
from tasks.mail.providers import OTHER
from tasks.monitoring.exporter.metrics import families
from tasks.monitoring.exporter.question import Question
from tasks.monitoring.readings.beat import beat
from tasks.monitoring.readings.certificates import seconds_left
from tasks.monitoring.readings.orphans import orphans
from tasks.monitoring.readings.queues import in_hand, queues
from tasks.monitoring.readings.totals import Histogram, TotalsReading, totals
from tasks.monitoring.readings.workers import WorkerReading, tasks_at_work, workers
from tasks.registry import TASKS
from tasks.runtime.broker import aside
from tasks.runtime.broker.transport import broker_client
from tasks.settings import get_settings
from tasks.storage import counts
from tasks.storage.states import OutboxState

# A scrape must end within the ten seconds that Prometheus has for it by default, also where both sources are silent.
_PATIENCE_SECONDS = 4
# How often the certificates are looked at.
_CERTIFICATES_SECONDS = 300

_TASKS = frozenset(row.name for row in TASKS)
_OPEN = tuple(state for state in OutboxState if state not in (OutboxState.SENT, OutboxState.FAILED))

Found = Mapping[str, Any]


class SiteCollector(Collector):
    """Collects the metrics of the site of this application."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._sources = {
            source: Question(f"{source} (/metrics)", read, patience=_PATIENCE_SECONDS)
            for source, read in {"redis": self._read_redis, "postgresql": _read_postgresql}.items()
        }

        self._certificates = Question(
            "certificates (/metrics)",
            _read_certificates,
            patience=_PATIENCE_SECONDS,
            shared_seconds=_CERTIFICATES_SECONDS,
        )

    def collect(self) -> Iterator[Metric]:
        """All metrics, with the values of this moment."""
        found = families()
        _add(found["metabuilder_task_info"], {(row.name, row.queue): 1 for row in TASKS})
        # All are asked before the first is waited for: together they take no longer than one.
        asked, certificates = {name: one.ask() for name, one in self._sources.items()}, self._certificates.ask()
        for source, question in asked.items():
            try:
                _merge(found, question.answer())
            except Exception:
                is_up = False
            else:
                is_up = True
            found["metabuilder_source_up"].add_metric([source], is_up)
            found["metabuilder_source_seconds"].add_metric([source], question.seconds)
        with suppress(Exception):  # the log says why
            _merge(found, certificates.answer())
        yield from found.values()

    def _read_redis(self) -> Found:
        found = families()
        with broker_client(self._app) as client:
            _add_totals(found, totals(client))
            _add_queues(found, client)
            _add_workers(found, workers(client))
            _add_beat(found, client)
            for store, count in orphans(client).items():
                found["metabuilder_orphaned_keys"].add_metric([store], count)
            said = client.info("clients")
        _add_connections(found, "broker", said["connected_clients"], said["maxclients"])
        return found


def _merge(found: Found, more: Found) -> None:
    for name, metric in more.items():
        found[name].samples.extend(metric.samples)


def _add_totals(found: Found, reading: TotalsReading) -> None:
    for name, counted in {
        "metabuilder_tasks_total": reading.ended,
        "metabuilder_task_redeliveries_total": reading.redelivered,
        "metabuilder_task_errors_total": reading.errors,
        "metabuilder_server_errors_total": reading.servers,
        "metabuilder_outbox_changes_total": reading.outbox,
        "metabuilder_webhook_events_total": reading.webhook_events,
        "metabuilder_removed_total": reading.removed,
        "metabuilder_watch_total": reading.watch,
    }.items():
        _add(found[name], counted)
    for (change,), amount in reading.sync.items():
        if change == "bytes":
            found["metabuilder_sync_bytes_total"].add_metric([], amount)
        else:
            found["metabuilder_sync_messages_total"].add_metric([change], amount)
    for name, histograms in {
        "metabuilder_task_run_seconds": reading.run,
        "metabuilder_task_wait_seconds": reading.wait,
    }.items():
        for labels, histogram in histograms.items():
            found[name].add_metric(labels, buckets=_cumulative(histogram), sum_value=histogram.seconds)


def _add(metric: Any, counted: Mapping[tuple[str, ...], int]) -> None:
    for labels, count in counted.items():
        metric.add_metric(labels, count)


def _cumulative(histogram: Histogram) -> list[tuple[str, int]]:
    return list(zip(histogram.counts, accumulate(histogram.counts.values()), strict=True))


def _add_queues(found: Found, client: Any) -> None:
    for queue in queues(client):
        found["metabuilder_queue_messages"].add_metric([queue.name], queue.depth)
        found["metabuilder_queue_oldest_seconds"].add_metric([queue.name], queue.oldest_seconds or 0)
    found["metabuilder_messages_in_hand"].add_metric([], in_hand(client))
    found["metabuilder_messages_aside"].add_metric([], aside.count(client))


def _add_workers(found: Found, readings: tuple[WorkerReading, ...]) -> None:
    for worker in readings:
        found["metabuilder_worker_up"].add_metric([worker.node], worker.is_up)
        found["metabuilder_worker_consumes"].add_metric([worker.node], worker.consumes)
        report = worker.report
        if report is None:
            continue
        if report.connections:
            held = found["metabuilder_worker_connections"]
            held.add_metric([worker.node, "redis"], report.connections.redis)
            held.add_metric([worker.node, "postgresql"], report.connections.postgresql)
            kept = found["metabuilder_worker_connections_kept"]
            kept.add_metric([worker.node, "postgresql"], report.connections.postgresql_kept)
        busy = [task.seconds for task in tasks_at_work([worker])]
        largest = max((child.pss or 0 for child in report.children), default=0)
        for name, labels, value in (
            ("info", [report.host, report.release], 1),
            ("children", ["busy"], len(busy)),
            ("children", ["idle"], len(report.children) - len(busy)),
            ("reserved", [], report.reserved),
            ("restarts_total", [], report.restarts),
            ("memory_bytes", ["main"], report.pss or 0),
            ("memory_bytes", ["child"], largest),
            ("longest_task_seconds", [], max(busy, default=0)),
        ):
            found[f"metabuilder_worker_{name}"].add_metric([worker.node, *labels], value)


def _add_beat(found: Found, client: Any) -> None:
    reading = beat(client)
    if reading.ticked is not None:
        found["metabuilder_beat_silence_seconds"].add_metric([], max(reading.ticked, 0))
    for entry in reading.entries:
        if entry.next_run is not None:
            found["metabuilder_beat_late_seconds"].add_metric([entry.name], max(-entry.next_run, 0))


def _add_connections(found: Found, server: str, connections: int, most: int) -> None:
    found["metabuilder_connections"].add_metric([server], connections)
    found["metabuilder_connections_max"].add_metric([server], most)


def _read_certificates() -> Found:
    found = families()
    for name, seconds in seconds_left(get_settings()).items():
        found["metabuilder_certificate_seconds"].add_metric([name], seconds)
    return found


def _read_postgresql() -> Found:
    found, counted, known = families(), counts.count(), codes()
    _add_connections(found, "postgresql", counted.connections, counted.connections_max)
    found["metabuilder_accounts_estimate"].add_metric([], counted.accounts_estimate)
    accounts: Counter[tuple[str, ...]] = Counter()
    for row in counted.accounts:
        code = row.error_code if row.error_code in {*known, None} else OTHER
        accounts[row.state, row.protocol, row.provider, code or ""] += row.accounts
    _add(found["metabuilder_accounts"], accounts)
    for late in counted.late:
        found["metabuilder_accounts_late"].add_metric([f"{late.seconds:.0f}"], late.accounts)
    found["metabuilder_watchers"].add_metric([], counted.watchers)
    _add(found["metabuilder_watch_accounts"], {(row.state,): row.accounts for row in counted.watched})
    outbox = {row.state: row for row in counted.outbox}
    for state in _OPEN:
        is_in = outbox.get(state, counts.Outbox(state, 0, 0))
        found["metabuilder_outbox_messages"].add_metric([state], is_in.messages)
        found["metabuilder_outbox_oldest_seconds"].add_metric([state], max(is_in.oldest_seconds, 0))
    for standing, endpoints in counted.webhooks._asdict().items():
        found["metabuilder_webhooks"].add_metric([standing], endpoints)
    letters: Counter[tuple[str, ...]] = Counter()
    for kind in counted.dead_letters:
        letters[kind.task_name if kind.task_name in _TASKS else OTHER, str(kind.is_retried).lower()] += kind.letters
    _add(found["metabuilder_dead_letters"], letters)
    queued = {row.is_aside: row for row in counted.queued_tasks}
    for is_aside in (False, True):
        waits, label = queued.get(is_aside, counts.QueuedTasks(is_aside, 0, 0)), [str(is_aside).lower()]
        found["metabuilder_queued_tasks"].add_metric(label, waits.tasks)
        found["metabuilder_queued_tasks_oldest_seconds"].add_metric(label, max(waits.oldest_seconds, 0))
    return found
