"""The screen of `top`: how processes are sorted, what their lines have, and that a paused screen stays as it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from manage import top
from manage.top_screen import Shown, Sort, View, frame, processes
from manage.top_sources import BrokerReading, QueueRow, Seen, TaskRow
from tasks.monitoring.readings.queues import QueueReading
from tasks.monitoring.readings.workers import WorkerReading
from tasks.monitoring.report import Child, Report, Work

MB = 1 << 20


def child(pid: int, memory: int, name: str = "", seconds: float = 0) -> Child:
    work = Work(id=f"id-{pid}", name=name, positional="()", named="{}", seconds=seconds) if name else None
    return Child(pid=pid, pss=memory * MB, work=work)


def worker(node: str, *children: Child) -> WorkerReading:
    report = Report(
        node=node, host="h", pid=1, release="1", seconds=60, concurrency=2, consumes=True, is_stopping=False,
        reserved=0, restarts=0, pss=MB, children=children,
    )  # fmt: skip
    return WorkerReading(node, 1.0, report)


READING = BrokerReading(
    queues=(QueueRow(QueueReading("sync", 7, 90.0), 1.5, 2.5),),
    workers=(
        worker("b@h", child(4, 10, "tasks.old", 300), child(2, 90, "tasks.zip", 20)),
        worker("a@h", child(3, 50, "tasks.new", 3), child(1, 99)),
    ),
    slowest=(TaskRow("tasks.slow", 3, 12.5),),
    beat_seconds=1,
)


@pytest.mark.parametrize(
    ("sort", "pids"),
    [
        (Sort.AGE, [4, 2, 3, 1]),
        (Sort.MEMORY, [2, 3, 4, 1]),
        (Sort.WORKER, [3, 2, 4, 1]),
        (Sort.TASK, [3, 4, 2, 1]),
    ],
)
def test_processes_at_work_come_first_in_the_order_asked_for(sort: Sort, pids: list[int]) -> None:
    assert [row.child.pid for row in processes(READING, sort)] == pids


def test_lines_have_depths_rates_memory_tasks_and_their_ages() -> None:
    shown = Shown(Seen(READING, 1.0), Seen())
    lines = [" ".join(line.plain.split()) for line in frame(shown, View(), "12:00:00", 80, 24)]
    assert any(line.startswith("sync 7 00:01:30 1.5 2.5") for line in lines), lines
    assert "slow (3) 12.50" in lines, lines
    assert any(line.startswith("4 b@h 10.5 MB old id-4 00:05:01") for line in lines), lines


def test_a_paused_screen_stays_as_it_is_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = [Shown(Seen(), Seen(at=float(number))) for number in range(9)]
    pressed = [[], [b"p"], [], [b"s"], [b"p"], [], [b"q"]]
    drawn: list[Shown] = []

    @contextmanager
    def keys() -> Iterator[Callable[[float], Any]]:
        waits = iter(pressed)
        yield lambda _: next(waits)

    @contextmanager
    def screen() -> Iterator[Callable[[partial[Any]], None]]:
        yield lambda lines: drawn.append(lines.args[0])

    monkeypatch.setattr(top, "_keys", keys)
    monkeypatch.setattr(top, "full_screen", screen)
    left = iter(reads)
    top._watch(lambda: next(left), View(), None)

    before, last, *paused, going_on, end = drawn
    assert [before, last] == reads[1:3]
    assert paused == [last] * 3
    assert [going_on, end] == reads[3:5]
