"""What the status page finds wrong with a site, and how bad it is."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.monitoring.canary import Consumption
from tasks.monitoring.exporter.status import Broker, Database, Status
from tasks.monitoring.exporter.verdict import Level, findings
from tasks.monitoring.readings.beat import Beat
from tasks.monitoring.readings.workers import WorkerReading
from tasks.monitoring.report import Report
from tasks.storage.counts import Counts, DeadLetters, Late, Outbox
from tasks.storage.webhooks.rounds import WebhookCount

REPORT = Report(
    node="w", host="h", pid=1, release="", seconds=1, concurrency=1, consumes=True, is_stopping=False, reserved=0,
    restarts=0, pss=None, children=(),
)  # fmt: skip
COUNTS = Counts(
    10,
    [],
    [Late(0, 9), Late(300, 8), Late(900, 0)],
    0,
    [],
    [Outbox("queued", 3, 1)],
    [DeadLetters("t", True, 4)],
    WebhookCount(1, 0, 0),
    connections=5,
    connections_max=100,
)
BROKER = Broker((), (WorkerReading("w", 1, REPORT),), Beat(1, ()), 0, 0)
DATABASE = Database(COUNTS, [], [])
WELL = Status(BROKER, (Consumption("sync", 0.1), Consumption("send", None, at_work=2)), DATABASE)


def broker(**changes: Any) -> Status:
    return replace(WELL, broker=replace(BROKER, **changes))


def counts(**changes: Any) -> Status:
    return replace(WELL, database=replace(DATABASE, counts=COUNTS._replace(**changes)))


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (WELL, []),
        (replace(WELL, broker=None, consumption=None), [(Level.BAD, "Redis does not answer")]),
        (replace(WELL, database=None), [(Level.BAD, "PostgreSQL does not answer")]),
        (replace(WELL, consumption=None), [(Level.BAD, "Redis does not say")]),
        (replace(WELL, consumption=(Consumption("spam", None),)), [(Level.BAD, "No worker consumes spam")]),
        (broker(workers=()), [(Level.BAD, "No worker has reported")]),
        (broker(workers=(*BROKER.workers, WorkerReading("x", 60, None))), [(Level.WARN, "1 worker down: x")]),
        (broker(beat=Beat(None, ())), [(Level.BAD, "Beat does not look")]),
        (broker(beat=Beat(61, ())), [(Level.BAD, "Beat does not look")]),
        (broker(aside=2), [(Level.WARN, "2 messages that no worker could run")]),
        (counts(late=[Late(300, 8), Late(900, 7)]), [(Level.WARN, "7 accounts whose sync has been due for 15 min")]),
        (counts(outbox=[Outbox("unknown", 1, 1)]), [(Level.WARN, "1 message of which nobody knows")]),
        (counts(dead_letters=[DeadLetters("t", False, 1200)]), [(Level.WARN, "1,200 tasks failed for good")]),
        (
            replace(counts(dead_letters=[DeadLetters("t", False, 1)]), broker=None, consumption=None),
            [(Level.BAD, "Redis does not answer"), (Level.WARN, "1 task failed for good")],
        ),
    ],
)
def test_findings_say_what_stands_still_and_what_to_look_at(status: Status, found: list[tuple[Level, str]]) -> None:
    said = findings(status)
    assert [level for level, _ in said] == [level for level, _ in found]
    assert all(words.startswith(start) for (_, words), (_, start) in zip(said, found, strict=True))
