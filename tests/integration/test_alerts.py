"""monitoring/alerts.yml: each alert fires on its fault, and keeps silent on what looks like it.

Each case changes a healthy site, and names all alerts that fire in the end.
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import yaml

from native.errors import StackError
from native.state import ROOT
from tasks.registry import TASKS
from tests.conftest import unavailable
from tests.support.prometheus import program

ALERTS = ROOT / "monitoring" / "alerts.yml"
RULES = {rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
# Of each series, a minute apart unless a case says otherwise.
SAMPLES = 24
IS_NUMBER = re.compile(r"-?[\d.]+").fullmatch


def always(value: float) -> str:
    return f"{value}+0x{SAMPLES}"


def lately(before: str, value: float, samples: int) -> str:
    """A value that came so many samples before the last one; `before` is `_` where there was none."""
    first = f"_x{SAMPLES - samples}" if before == "_" else f"{before}+0x{SAMPLES - samples - 1}"
    return f"{first} {value}+0x{samples}"


def grows(step: float) -> str:
    return f"0+{step}x{SAMPLES}"


SYNC, SEND = "email_service.tasks.sync_emails", "email_service.tasks.send_email"
WAITED = 'metabuilder_task_wait_seconds_count{{task="{}"}}'
QUEUE = 'metabuilder_queue_oldest_seconds{{queue="{}"}}'
FAILING = 'metabuilder_accounts{{state="{}",protocol="imap",provider="google",code="server_busy"}}'
HEALTHY = {
    'up{job="metabuilder",instance="one"}': always(1),
    'metabuilder_source_up{source="redis"}': always(1),
    'metabuilder_source_up{source="postgresql"}': always(1),
    **{f'metabuilder_task_info{{task="{row.name}",queue="{row.queue}"}}': always(1) for row in TASKS},
    f'metabuilder_tasks_total{{task="{SYNC}",outcome="success"}}': grows(60),
    f'metabuilder_tasks_total{{task="{SYNC}",outcome="failure"}}': grows(1),
    WAITED.format(SYNC): grows(60),
    WAITED.format(SEND): grows(0),
    QUEUE.format("sync"): always(20),
    QUEUE.format("send"): always(0),
    QUEUE.format("reread"): always(0),
    "metabuilder_messages_aside": always(0),
    'metabuilder_worker_up{worker="w@one"}': always(1),
    'metabuilder_worker_consumes{worker="w@one"}': always(1),
    'metabuilder_worker_children{worker="w@one",state="busy"}': always(2),
    'metabuilder_worker_children{worker="w@one",state="idle"}': always(2),
    "metabuilder_watchers": always(2),
    'metabuilder_watch_accounts{state="connected"}': always(95),
    'metabuilder_watch_accounts{state="connecting"}': always(5),
    "metabuilder_beat_silence_seconds": always(3),
    'metabuilder_beat_late_seconds{entry="sync-emails-every-5min"}': always(0),
    "metabuilder_accounts_estimate": always(1000),
    FAILING.format("failing"): always(30),
    'metabuilder_outbox_messages{state="queued"}': always(5),
    'metabuilder_outbox_messages{state="unknown"}': always(0),
    'node_memory_MemTotal_bytes{instance="one"}': always(1000),
    'node_memory_MemAvailable_bytes{instance="one"}': always(500),
    **{
        f'node_filesystem_{name}{{instance="one",mountpoint="/",fstype="ext4"}}': always(value)
        for name, value in {
            "avail_bytes": 500, "size_bytes": 1000, "files_free": 500, "files": 1000, "readonly": 0,
        }.items()
    },
    'node_time_seconds{instance="one"}': f"1+60x{SAMPLES}",
    'redis_memory_used_bytes{instance="one"}': always(500),
    'redis_memory_max_bytes{instance="one"}': always(1000),
    'metabuilder_backup_ok{instance="b"}': always(1),
    'metabuilder_backup_timestamp_seconds{instance="b"}': always(0),
    'metabuilder_backup_first_timestamp_seconds{instance="b"}': always(0),
    'metabuilder_restore_drill_ok{instance="b"}': always(1),
    'metabuilder_restore_drill_timestamp_seconds{instance="b"}': always(0),
    'pg_stat_archiver_last_archive_age{instance="d"}': always(50),
}  # fmt: skip


# What a Sentinel of three hosts tells.
MASTER_STATUS, OK_REPLICAS, OK_SENTINELS = (
    f'redis_sentinel_master_{name}{{instance="one:26379",master_name="broker"}}'
    for name in ("status", "ok_slaves", "ok_sentinels")
)
SENTINELS: dict[str, str | None] = {
    MASTER_STATUS: always(1),
    OK_REPLICAS: always(2),
    OK_SENTINELS: always(3),
    'redis_sentinel_master_sentinels{instance="one:26379",master_name="broker"}': always(3),
}


class Case(NamedTuple):
    """What is different from a healthy site, and the alerts that fire. A series that is None is not there."""

    changes: dict[str, str | None]
    alerts: tuple[str, ...] = ()
    interval: str = "1m"


def failed(task: str, outcome: str, a_minute: float) -> dict[str, str | None]:
    return {f'metabuilder_tasks_total{{task="{task}",outcome="{outcome}"}}': grows(a_minute)}


def waits(queue: str, seconds: float, began: dict[str, float] | None = None) -> dict[str, str | None]:
    """The oldest message waits for so long; so many tasks of each name began in a minute."""
    return {
        QUEUE.format(queue): always(seconds),
        **{WAITED.format(task): grows(number) for task, number in (began or {}).items()},
    }


def all_gone(prefix: str) -> dict[str, str | None]:
    return {series: None for series in HEALTHY if series.startswith(prefix)}


def rare_failures(number: int, label: str = "") -> dict[str, str | None]:
    """So many failures of a task, ten minutes ago, and one success."""
    return {
        f'metabuilder_tasks_total{{task="rare",outcome="{outcome}",{label}}}': f"0+0x{SAMPLES - 11} {count}+0x10"
        for outcome, count in {"failure": number, "success": 1}.items()
    }


def processes(busy: int, idle: int) -> dict[str, str | None]:
    of = 'metabuilder_worker_children{{worker="w@one",state="{}"}}'
    return {of.format("busy"): always(busy), of.format("idle"): always(idle)}


def connections(server: str, number: int, most: int) -> dict[str, str | None]:
    values = {"": number, "_max": most}
    return {f'metabuilder_connections{part}{{server="{server}"}}': always(value) for part, value in values.items()}


def over_hours(changes: dict[str, str | None], *alerts: str) -> Case:
    """A case of one sample in four minutes."""
    return Case({**changes, 'node_time_seconds{instance="one"}': None}, alerts, "4m")


def filesystem(mount: str, kind: str, **values: float) -> dict[str, str | None]:
    of = 'node_filesystem_{}{{instance="one",mountpoint="{}",fstype="{}"}}'
    healthy = {"avail_bytes": 500, "size_bytes": 1000, "files_free": 500, "files": 1000, "readonly": 0}
    return {of.format(name, mount, kind): always(value) for name, value in {**healthy, **values}.items()}


# Of each series the last sample alone.
ONE_SCRAPE: dict[str, str | None] = {
    of: lately("_", float(values.partition("+")[0]), 0)
    for of, values in HEALTHY.items()
    if not of.startswith("node_time")
}
CASES: dict[str, Case] = {
    "a healthy site": Case({}),
    "no exporter": Case(
        {**all_gone("metabuilder_"), 'up{job="metabuilder",instance="one"}': always(0)},
        ("MetabuilderNotMeasured", "MetabuilderTargetDown"),
    ),
    "one exporter of two is down": Case(
        {'up{job="metabuilder",instance="two"}': always(0)}, ("MetabuilderTargetDown",)
    ),
    "an exporter restarts": Case({'up{job="metabuilder",instance="two"}': lately("1", 0, 3)}),
    "the only exporter restarts": Case(
        {of: f"{values.rpartition('x')[0]}x{SAMPLES - 2} stale"
         for of, values in HEALTHY.items() if values and of.startswith("metabuilder_")}
    ),
    "something else is down": Case({'up{job="printer",instance="two"}': always(0)}),
    "Redis is away": Case(
        {**all_gone("metabuilder_queue"), **all_gone("metabuilder_worker"), **all_gone("metabuilder_beat"),
         'metabuilder_source_up{source="redis"}': always(0)},
        ("MetabuilderRedisAway",),
    ),
    "one exporter of two does not reach Redis": Case(
        {'metabuilder_source_up{source="redis",instance="two"}': always(0)}
    ),
    "PostgreSQL is away": Case(
        {**all_gone("metabuilder_accounts"), 'metabuilder_source_up{source="postgresql"}': always(0)},
        ("MetabuilderPostgresqlAway",),
    ),
    "PostgreSQL was away for a scrape": Case({'metabuilder_source_up{source="postgresql"}': lately("1", 0, 0)}),
    "Redis was away for a scrape": Case({'metabuilder_source_up{source="redis"}': lately("1", 0, 0)}),
    "a fifth of the syncs fails": Case(failed(SYNC, "failure", 15), ("MetabuilderTasksFail",)),
    "a fifth of the syncs is killed at the time limit": Case(
        failed(SYNC, "timed_out", 15), ("MetabuilderTasksFail",)
    ),
    "most syncs are tried again": Case(failed(SYNC, "retry", 300)),
    "a burst of syncs has just failed": Case(
        {f'metabuilder_tasks_total{{task="{SYNC}",outcome="failure"}}': f"0+0x{SAMPLES - 1} 500"}
    ),
    "a fifth of the syncs is lost with its process": Case(failed(SYNC, "lost", 15), ("MetabuilderTasksFail",)),
    "less than a tenth of the syncs fails": Case(failed(SYNC, "failure", 6.4)),
    "more than a tenth of the syncs fails": Case(failed(SYNC, "failure", 7.5), ("MetabuilderTasksFail",)),
    "some syncs fail, and most wait for their turn": Case(
        {**failed(SYNC, "failure", 15), **failed(SYNC, "deferred", 300)}
    ),
    "many syncs failed a quarter of an hour ago": Case(
        {f'metabuilder_tasks_total{{task="{SYNC}",outcome="failure"}}': f"0+20x10 200+0x{SAMPLES - 11}"}
    ),
    "four runs of a rare task fail": Case(rare_failures(4)),
    "five runs of a rare task fail": Case(rare_failures(5), ("MetabuilderTasksFail",)),
    "three runs of a rare task fail, as two exporters tell": Case(
        {**rare_failures(3, 'instance="one"'), **rare_failures(3, 'instance="two"')}
    ),
    "a dead letter": Case(
        {'metabuilder_dead_letters{task="a",retried="false"}': always(1)}, ("MetabuilderDeadLetters",)
    ),
    "a task queued in SQL is not published": Case(
        {'metabuilder_queued_tasks_oldest_seconds{aside="false"}': always(61)}, ("MetabuilderQueuedTasksWait",)
    ),
    "tasks queued in SQL come and go": Case({'metabuilder_queued_tasks_oldest_seconds{aside="false"}': always(2)}),
    "dead letters that were queued again": Case({'metabuilder_dead_letters{task="a",retried="true"}': always(9)}),
    "a dead letter that is queued again at once": Case(
        {'metabuilder_dead_letters{task="a",retried="false"}': lately("0", 1, 2)}
    ),
    "an endpoint of a webhook is disabled": Case(
        {'metabuilder_webhooks{state="disabled"}': always(1)}, ("MetabuilderWebhookDisabled",)
    ),
    "endpoints of webhooks fail": Case({'metabuilder_webhooks{state="failing"}': always(3)}),
    "a message is put aside": Case({"metabuilder_messages_aside": always(1)}, ("MetabuilderMessagesAside",)),
    "a message is aside for a moment": Case({"metabuilder_messages_aside": lately("0", 1, 9)}),
    "a queue stands still": Case(waits("send", 121), ("MetabuilderQueueStandsStill",)),
    "a queue stands still, while another task of the worker runs": Case(
        waits("send", 121, {SYNC: 60}), ("MetabuilderQueueStandsStill",)
    ),
    "a queue stands still for less than two minutes": Case(waits("send", 110)),
    "messages of one moment are worked off": Case(waits("send", 600, {SEND: 2})),
    "all processes are at work": Case({**waits("send", 600), **processes(4, 0)}),
    "no process at all": Case({**waits("send", 600), **processes(0, 0)}, ("MetabuilderQueueStandsStill",)),
    "Prometheus has just started": Case({**ONE_SCRAPE, QUEUE.format("send"): lately("_", 600, 0)}),
    "messages are to be read again after all other work": Case(waits("reread", 9000)),
    "messages wait for twenty minutes": Case(waits("send", 1200, {SEND: 2}), ("MetabuilderMessagesTooOld",)),
    "messages waited for too long, and now do no more": Case(
        {'metabuilder_queue_oldest_seconds{queue="sync"}': f"1200+0x{SAMPLES - 6} 5+0x6"}
    ),
    "a queue stands still, and Redis did not answer the last scrape": Case(
        {QUEUE.format("send"): f"121+0x{SAMPLES - 1} stale"},
        ("MetabuilderQueueStandsStill",),
    ),
    "a worker is gone": Case(
        {f'metabuilder_worker_{name}{{worker="w@two"}}': always(0) for name in ("up", "consumes")},
        ("MetabuilderWorkerDown",),
    ),
    "a worker was stopped": Case({'metabuilder_worker_up{worker="w@two"}': f"1+0x{SAMPLES - 10} stale"}),
    "every worker was stopped": Case(all_gone("metabuilder_worker"), ("MetabuilderNoWorker",)),
    "a watcher is gone": Case({"metabuilder_watchers": lately("2", 1, 8)}, ("MetabuilderWatcherGone",)),
    # The lease of the one that died ends ten seconds after the next one has begun.
    "a watcher was killed and started again": Case({"metabuilder_watchers": f"2+0x{SAMPLES - 8} 3 2+0x6"}),
    "a watcher starts anew": Case({"metabuilder_watchers": lately("2", 1, 2)}),
    "no watcher was ever wanted": Case({"metabuilder_watchers": always(0), **all_gone("metabuilder_watch_accounts")}),
    "a third of the mailboxes has no connection": Case(
        {'metabuilder_watch_accounts{state="connecting"}': always(50)}, ("MetabuilderWatchersLoseMailboxes",)
    ),
    "all mailboxes connect anew": Case({'metabuilder_watch_accounts{state="connecting"}': lately("5", 900, 9)}),
    "every worker restarts": Case(
        {of: f"{values.rpartition('x')[0]}x{SAMPLES - 1} stale"
         for of, values in HEALTHY.items() if values and of.startswith("metabuilder_worker")}
    ),
    "messages are too old for a moment": Case({QUEUE.format("sync"): lately("20", 1200, 0)}),
    "a worker does not consume": Case(
        {'metabuilder_worker_consumes{worker="w@one"}': always(0)}, ("MetabuilderWorkerDoesNotConsume",)
    ),
    "a worker stops, and finishes its tasks": Case(
        {'metabuilder_worker_consumes{worker="w@one"}': lately("1", 0, 6)}
    ),
    "beat is gone": Case({"metabuilder_beat_silence_seconds": always(100)}, ("MetabuilderBeatSilent",)),
    "no beat ever ran": Case({"metabuilder_beat_silence_seconds": None}, ("MetabuilderBeatSilent",)),
    "beat starts anew": Case({"metabuilder_beat_silence_seconds": lately("3", 70, 1)}),
    "beat is slow": Case({"metabuilder_beat_silence_seconds": always(50)}),
    "an entry is late": Case(
        {'metabuilder_beat_late_seconds{entry="sync-emails-every-5min"}': always(90)}, ("MetabuilderBeatLate",)
    ),
    "an entry is due": Case({'metabuilder_beat_late_seconds{entry="sync-emails-every-5min"}': always(20)}),
    "a provider's accounts began to fail": over_hours(
        {FAILING.format("failing"): lately("30", 60, 5)}, "MetabuilderAccountsFail"
    ),
    "accounts of a provider without failures were paused": over_hours(
        {FAILING.format("paused").replace("google", "yahoo"): lately("_", 60, 5)}, "MetabuilderAccountsFail"
    ),
    "the same, of a hundred thousand accounts": over_hours(
        {"metabuilder_accounts_estimate": always(100000), FAILING.format("failing"): lately("30", 60, 5)}
    ),
    "many accounts fail, as yesterday": over_hours({FAILING.format("failing"): always(300)}),
    "many accounts are paused, as yesterday": over_hours({FAILING.format("paused"): always(300)}),
    "a provider's accounts fail for an evaluation": over_hours({FAILING.format("failing"): lately("30", 60, 0)}),
    "some accounts more fail, as two exporters tell": over_hours(
        {FAILING.format("failing").replace("}", f',instance="{one}"}}'): lately("0", 8, 5) for one in ("one", "two")}
    ),
    "many accounts failed before Prometheus was there": over_hours(
        {"metabuilder_accounts_estimate": lately("_", 1000, 5), FAILING.format("failing"): lately("_", 300, 5)}
    ),
    "a first sync for everybody": over_hours({FAILING.format("first_sync"): lately("_", 900, 5)}),
    "nobody knows whether mail was sent": Case(
        {'metabuilder_outbox_messages{state="unknown"}': always(1)}, ("MetabuilderMailUnknown",)
    ),
    "much mail waits": Case({'metabuilder_outbox_messages{state="queued"}': always(5000)}),
    "memory is low": Case(
        {'node_memory_MemAvailable_bytes{instance="one"}': always(90)}, ("MetabuilderMemoryLow",)
    ),
    "memory is full of files that can be read again": Case({'node_memory_MemFree_bytes{instance="one"}': always(9)}),
    "a disk is nearly full": Case(filesystem("/data", "xfs", avail_bytes=90), ("MetabuilderDiskFull",)),
    "a backup failed": Case({'metabuilder_backup_ok{instance="b"}': always(0)}, ("MetabuilderBackupFails",)),
    "a backup is old": Case(
        {'metabuilder_backup_timestamp_seconds{instance="b"}': always(-31 * 3600)}, ("MetabuilderBackupFails",)
    ),
    "nothing is archived": Case(
        {'pg_stat_archiver_last_archive_age{instance="d"}': always(700)}, ("MetabuilderArchivingStopped",)
    ),
    "a backup could not be restored": Case(
        {'metabuilder_restore_drill_ok{instance="b"}': always(0)}, ("MetabuilderRestoreDrillFails",)
    ),
    "no backup was restored for long": Case(
        {'metabuilder_restore_drill_timestamp_seconds{instance="b"}': always(-11 * 86400)},
        ("MetabuilderRestoreDrillOld",),
    ),
    "no backup was ever restored": Case(
        {
            'metabuilder_backup_first_timestamp_seconds{instance="b"}': always(-11 * 86400),
            'metabuilder_restore_drill_ok{instance="b"}': None,
            'metabuilder_restore_drill_timestamp_seconds{instance="b"}': None,
        },
        ("MetabuilderRestoreDrillOld",),
    ),
    "a disk has no inodes left": Case(filesystem("/data", "ext4", files_free=9), ("MetabuilderDiskFull",)),
    "a file system without inodes": Case(filesystem("/data", "btrfs", files_free=0, files=0)),
    "an image that is full by nature": Case(filesystem("/snap", "squashfs", avail_bytes=0)),
    "a full file system that is read-only": Case(filesystem("/cd", "ext4", avail_bytes=0, readonly=1)),
    "a clock is ahead": Case({'node_time_seconds{instance="one"}': f"7+60x{SAMPLES}"}, ("MetabuilderClockOff",)),
    "a clock is behind": Case({'node_time_seconds{instance="one"}': f"-7+60x{SAMPLES}"}, ("MetabuilderClockOff",)),
    "a clock is off for a moment": Case(
        {'node_time_seconds{instance="one"}': f"1+60x{SAMPLES - 1} {60 * SAMPLES + 8}"}
    ),
    "connections of PostgreSQL run out": Case(connections("postgresql", 85, 100), ("MetabuilderConnections",)),
    "connections of Redis run out": Case(connections("broker", 900, 1000), ("MetabuilderConnections",)),
    "a server that takes many has as many": Case(connections("postgresql", 85, 200)),
    "a certificate ends": Case(
        {'metabuilder_certificate_seconds{certificate="broker"}': always(10 * 86400)}, ("MetabuilderCertificateEnds",)
    ),
    "a certificate has ended": Case(
        {'metabuilder_certificate_seconds{certificate="authority"}': always(-60)}, ("MetabuilderCertificateEnds",)
    ),
    "a certificate will be renewed by the next run": Case(
        {'metabuilder_certificate_seconds{certificate="broker"}': always(20 * 86400)}
    ),
    "a session sits in a transaction": Case(
        {'pg_stat_activity_max_tx_duration{datname="a",state="idle in transaction"}': always(700)},
        ("MetabuilderPostgresqlLongTransaction",),
    ),
    "a transaction works for hours": Case(
        {'pg_stat_activity_max_tx_duration{datname="a",state="active"}': always(4000)},
        ("MetabuilderPostgresqlLongTransaction",),
    ),
    "autovacuum works for hours": Case(
        {'pg_stat_activity_max_tx_duration{state="active",backend_type="autovacuum worker"}': always(9000)}
    ),
    "an index is built": Case({'pg_stat_activity_max_tx_duration{datname="a",state="active"}': always(1800)}),
    "Redis is nearly full": Case(
        {'redis_memory_used_bytes{instance="one"}': always(900)}, ("MetabuilderRedisMemory",)
    ),
    "Redis has no limit": Case(
        {'redis_memory_used_bytes{instance="one"}': always(9e9), 'redis_memory_max_bytes{instance="one"}': always(0)}
    ),
    "Redis is full": Case(
        {'redis_errors_total{instance="one",err="OOM"}': grows(1)}, ("MetabuilderRedisRefusesWrites",)
    ),
    "Redis was full an hour ago": Case(
        {'redis_errors_total{instance="one",err="OOM"}': f"0+1x{SAMPLES - 10} {SAMPLES - 10}+0x10"}
    ),
    **{
        f"{what} of Redis": Case({**SENTINELS, **changed}, alerts)
        for what, changed, alerts in (
            ("all three hosts", {}, ()),
            ("no master", {MASTER_STATUS: always(0)}, ("MetabuilderRedisNoMaster",)),
            ("one replica", {OK_REPLICAS: always(1)}, ("MetabuilderRedisReplicaMissing",)),
            ("one Sentinel away", {OK_SENTINELS: always(2)}, ()),
            ("one Sentinel left", {OK_SENTINELS: always(1)}, ("MetabuilderRedisNoFailover",)),
        )
    },
    "Redis was made a replica": Case(
        {'redis_errors_total{instance="one",err="READONLY"}': f"0x{SAMPLES - 2} 9x2"}
    ),
    "Redis stays a replica": Case(
        {'redis_errors_total{instance="one",err="READONLY"}': grows(1)}, ("MetabuilderRedisRefusesWrites",)
    ),
    "Redis refuses nonsense": Case({'redis_errors_total{instance="one",err="WRONGTYPE"}': grows(9)}),
}  # fmt: skip


def of_a_moment() -> dict[str, Case]:
    """Faults that last, as they are when they have been there for one sample: an alert that waits keeps silent."""
    at_once, found = {alert for alert, rule in RULES.items() if "for" not in rule}, {}
    for name, case in CASES.items():
        lasting = {of: (values or "").removesuffix(f"+0x{SAMPLES}") for of, values in case.changes.items()}
        if case.alerts and not at_once & {*case.alerts} and all(map(IS_NUMBER, lasting.values())):
            before = {of: (HEALTHY.get(of) or "_").partition("+")[0] for of in lasting}
            changes = {of: lately(before[of], float(value), 0) for of, value in lasting.items()}
            found[f"{name}, for a moment"] = Case(changes, interval=case.interval)
    assert len(found) > 10
    return found


# What tells that a source, or the exporter itself, does not answer.
OF_SOURCES = {"MetabuilderNotMeasured", "MetabuilderTargetDown", "MetabuilderRedisAway", "MetabuilderPostgresqlAway"}
# Not of what Redis and PostgreSQL say to an exporter of ours, or of how values were over a longer time.
UNTOUCHED_BY_A_GAP = ("node_", "pg_", "up{")
# The sample that Redis and PostgreSQL did not answer; the last but one at which rules are evaluated.
GAP = SAMPLES - 2


def with_gap(case: Case, alert: str) -> Case:
    """The fault of a case begins so late that its alert can only be firing in the end if a scrape without metrics
    does not have its time begin anew."""
    minutes = int(RULES[alert]["for"].removesuffix("m"))
    since = GAP - minutes - minutes % 2
    changes = {of: values for of, values in HEALTHY.items() if of not in case.changes}
    for of, values in case.changes.items():
        before = HEALTHY.get(of, "_").partition("+")[0]
        now = "stale" if values is None else values.partition("+")[0]
        changes[of] = " ".join([before] * since + [now] * (SAMPLES + 1 - since))
    return Case({of: without_a_sample(of, values) for of, values in changes.items()}, (alert,))


def steady(case: Case) -> bool:
    """Whether each series that the case changes has one value, and is what a scrape without metrics lacks."""
    return all(
        not of.startswith(UNTOUCHED_BY_A_GAP) and (values is None or values.endswith(f"+0x{SAMPLES}"))
        for of, values in case.changes.items()
    )


def without_a_sample(of: str, values: str) -> str:
    """The values of a series, the one of the gap missing."""
    if of.startswith(UNTOUCHED_BY_A_GAP) or "_total{" in of or "_count{" in of:
        return values
    samples = values.split()
    if len(samples) <= SAMPLES:
        samples = [values.partition("+")[0]] * (SAMPLES + 1)
    samples[GAP] = "0" if of.startswith("metabuilder_source_up") else "stale"
    return " ".join(samples)


def promtool_test(name: str, case: Case) -> dict[str, object]:
    series = {**HEALTHY, **case.changes}
    return {
        "interval": case.interval,
        "input_series": [{"series": of, "values": values} for of, values in series.items() if values is not None],
        "promql_expr_test": [
            {
                # The comment, as what promtool says of a failure names no test.
                "expr": f'group by (alertname) (ALERTS{{alertstate="firing"}}) # {name}',
                "eval_time": f"{SAMPLES * int(case.interval[0])}m",
                "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in case.alerts],
            }
        ],
    }


def test_each_alert_fires_on_its_fault_alone(tmp_path: Path) -> None:
    tests = [promtool_test(name, case) for name, case in {**CASES, **of_a_moment()}.items()]
    # Each again, with a scrape without metrics while it waits for the time of its `for`
    waiting = {
        name: (case, alert)
        for name, case in CASES.items()
        for alert in case.alerts
        if len(case.alerts) == 1 and case.interval == "1m" and steady(case) and alert not in OF_SOURCES
        if "for" in RULES[alert]
    }
    assert len(waiting) > 10
    tests += [promtool_test(f"{name}, and one scrape fails", with_gap(*which)) for name, which in waiting.items()]
    quiet = Case({of: without_a_sample(of, values) for of, values in HEALTHY.items()})
    tests.append(promtool_test("a healthy site, and one scrape fails", quiet))
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "2m", "tests": tests}))
    try:
        command = (program("promtool"), "test", "rules", str(file))
    except StackError as error:
        unavailable(str(error))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case() -> None:
    assert {alert for case in CASES.values() for alert in case.alerts} == {*RULES}
