"""The metrics: their names, labels and meanings, as docs/operations.md lists them.

No label holds the name of a tenant, an account or a mail server, so their number does not grow with those.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


class Kind(Enum):
    """The type of a metric, and the class that makes one."""

    COUNTER = CounterMetricFamily
    GAUGE = GaugeMetricFamily
    HISTOGRAM = HistogramMetricFamily


class Spec(NamedTuple):
    """A metric without its values."""

    kind: Kind
    labels: tuple[str, ...]
    meaning: str


_OF_A_TASK, _OF_A_WORKER = ("task",), ("worker",)
METRICS: Mapping[str, Spec] = {
    "metabuilder_source_up": Spec(
        Kind.GAUGE, ("source",), "1 if Redis (`redis`) or PostgreSQL (`postgresql`) answered this scrape, else 0"
    ),
    "metabuilder_source_seconds": Spec(Kind.GAUGE, ("source",), "How long it took to read from the source"),
    "metabuilder_task_info": Spec(Kind.GAUGE, ("task", "queue"), "Always 1; the queue of the task"),
    "metabuilder_tasks_total": Spec(Kind.COUNTER, ("task", "outcome"), "Runs of tasks that ended"),
    "metabuilder_task_run_seconds": Spec(Kind.HISTOGRAM, ("task", "outcome"), "How long runs of tasks took"),
    "metabuilder_task_wait_seconds": Spec(
        Kind.HISTOGRAM, _OF_A_TASK, "How long tasks waited from when they were due until they began"
    ),
    "metabuilder_task_redeliveries_total": Spec(
        Kind.COUNTER, _OF_A_TASK, "Runs of tasks whose message had been given back, as by a worker that died"
    ),
    "metabuilder_task_errors_total": Spec(
        Kind.COUNTER, ("task", "code"), "Runs of tasks that failed or are tried again, by the code of the error"
    ),
    "metabuilder_queue_messages": Spec(Kind.GAUGE, ("queue",), "Messages that wait in a queue"),
    "metabuilder_queue_oldest_seconds": Spec(
        Kind.GAUGE, ("queue",), "For how long the oldest message that is due has been due; 0 where none is"
    ),
    "metabuilder_messages_in_hand": Spec(Kind.GAUGE, (), "Messages that workers have taken and not finished"),
    "metabuilder_messages_aside": Spec(Kind.GAUGE, (), "Messages that no worker could run, put aside"),
    "metabuilder_worker_up": Spec(
        Kind.GAUGE, _OF_A_WORKER, "1 if the worker reports, 0 if it reported within a day and does no longer"
    ),
    "metabuilder_worker_consumes": Spec(Kind.GAUGE, _OF_A_WORKER, "1 if the worker takes messages from its queues"),
    "metabuilder_worker_info": Spec(Kind.GAUGE, ("worker", "host", "release"), "Always 1; the release by host"),
    "metabuilder_worker_children": Spec(
        Kind.GAUGE, ("worker", "state"), "Processes of the worker's pool that run a task (`busy`) or wait (`idle`)"
    ),
    "metabuilder_worker_reserved": Spec(
        Kind.GAUGE, _OF_A_WORKER, "Messages that the worker has taken and whose tasks no process has begun"
    ),
    "metabuilder_worker_restarts_total": Spec(
        Kind.COUNTER, _OF_A_WORKER, "Processes that the worker started in the place of others"
    ),
    "metabuilder_worker_memory_bytes": Spec(
        Kind.GAUGE,
        ("worker", "process"),
        "Memory (PSS) of the main process (`main`) and of the largest child (`child`)",
    ),
    "metabuilder_worker_longest_task_seconds": Spec(
        Kind.GAUGE, _OF_A_WORKER, "How long the longest task that the worker has at work has been at work"
    ),
    "metabuilder_worker_connections": Spec(
        Kind.GAUGE,
        ("worker", "server"),
        "Connections that the worker's processes hold to Redis (`redis`: broker and results) and to `postgresql`",
    ),
    "metabuilder_worker_connections_kept": Spec(
        Kind.GAUGE,
        ("worker", "server"),
        "How many connections the pools of the worker's processes keep; more are opened in need",
    ),
    "metabuilder_beat_silence_seconds": Spec(Kind.GAUGE, (), "How long ago a beat looked at the schedule"),
    "metabuilder_beat_late_seconds": Spec(
        Kind.GAUGE, ("entry",), "For how long an entry of the schedule has been due; 0 where it is not due"
    ),
    "metabuilder_accounts_estimate": Spec(Kind.GAUGE, (), "PostgreSQL's estimate of the number of accounts"),
    "metabuilder_accounts": Spec(
        Kind.GAUGE,
        ("state", "protocol", "provider", "code"),
        "Accounts that are not well: `paused`, `failing`, `first_sync` or `sending_paused`",
    ),
    "metabuilder_accounts_late": Spec(
        Kind.GAUGE, ("over_seconds",), "Accounts whose sync has been due for more than so many seconds"
    ),
    "metabuilder_watchers": Spec(Kind.GAUGE, (), "Watchers of mailboxes that are alive"),
    "metabuilder_watch_accounts": Spec(
        Kind.GAUGE,
        ("state",),
        "Mailboxes that a watcher has (`connected`, `connecting`), that none took (`waiting`: over a limit), and"
        " whose server cannot tell of changes (`refused`); the last two while there is a watcher",
    ),
    "metabuilder_watch_total": Spec(
        Kind.COUNTER,
        ("event",),
        "Of watchers: logins that worked (`login`) or did not (`login_failed`), connections that ended by themselves"
        " (`lost`); and polls that found mail in a watched mailbox (`missed`)",
    ),
    "metabuilder_outbox_messages": Spec(
        Kind.GAUGE, ("state",), "Messages of the outbox that are neither sent nor failed for good"
    ),
    "metabuilder_outbox_oldest_seconds": Spec(
        Kind.GAUGE, ("state",), "How long ago the oldest of these messages was asked for; 0 where there is none"
    ),
    "metabuilder_outbox_changes_total": Spec(
        Kind.COUNTER, ("state",), "Messages of the outbox that came into this state; `failed` is for good"
    ),
    "metabuilder_webhooks": Spec(
        Kind.GAUGE,
        ("state",),
        "Endpoints of webhooks: `working`, `failing`, or `disabled` (they get nothing any more)",
    ),
    "metabuilder_webhook_events_total": Spec(
        Kind.COUNTER,
        ("outcome",),
        "Events that endpoints `accepted`, did not accept and get again (`failed`), or get no more (`given_up`)",
    ),
    "metabuilder_sync_messages_total": Spec(
        Kind.COUNTER,
        ("change",),
        "Messages that syncs stored (`synced`), `updated`, `deleted`, or put into quarantine (`quarantined`)",
    ),
    "metabuilder_sync_bytes_total": Spec(Kind.COUNTER, (), "Bytes of the messages that syncs stored"),
    "metabuilder_server_errors_total": Spec(
        Kind.COUNTER,
        ("protocol", "provider", "code"),
        "Errors of mail servers, in connections by `imap`, `pop3` or `smtp`",
    ),
    "metabuilder_removed_total": Spec(
        Kind.COUNTER,
        ("kind",),
        "What the hourly cleanup removed, such as results in Redis that were nobody's any more",
    ),
    "metabuilder_orphaned_keys": Spec(
        Kind.GAUGE,
        ("store",),
        "Keys of Redis (`broker`, `results`) that never expire and belong to nobody, and that the hourly cleanup"
        " therefore left, as it last counted",
    ),
    "metabuilder_connections": Spec(
        Kind.GAUGE, ("server",), "Connections to Redis (`broker`) and PostgreSQL (`postgresql`), of all programs"
    ),
    "metabuilder_connections_max": Spec(Kind.GAUGE, ("server",), "How many connections the server takes"),
    "metabuilder_certificate_seconds": Spec(
        Kind.GAUGE,
        ("certificate",),
        "For how long a certificate is still valid, negative where it has ended: of the servers (`broker`, `results`,"
        " `postgresql`) where they encrypt, of the site's `authority`, and of the host of this exporter those of"
        " Debian's `exporters`, their Prometheus (`monitoring`), `log_collector` and `log_sender`",
    ),
    "metabuilder_dead_letters": Spec(
        Kind.GAUGE, ("task", "retried"), "Tasks that failed for good, and whether they were queued again since"
    ),
    "metabuilder_queued_tasks": Spec(
        Kind.GAUGE, ("aside",), "Tasks queued in SQL that beat has not published yet, or could not (`aside`)"
    ),
    "metabuilder_queued_tasks_oldest_seconds": Spec(
        Kind.GAUGE, ("aside",), "For how long the oldest of these has been waiting, 0 where there is none"
    ),
}


def families() -> dict[str, Any]:
    """All metrics by name, without values."""
    return {name: spec.kind.value(name, spec.meaning, labels=spec.labels) for name, spec in METRICS.items()}
