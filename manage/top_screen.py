"""How `top` draws what it has read: as many lines as the terminal has, each as wide as it.

Names come from whoever can write to Redis, so each cell is made visible and cut to its width.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from manage.messages import short
from manage.output import duration, size
from manage.top_sources import BrokerReading, QueueRow, Seen
from tasks.secrecy.visible import visible

if TYPE_CHECKING:
    from tasks.monitoring.readings.workers import WorkerReading
    from tasks.monitoring.report import Child
    from tasks.storage.counts import Counts

_OLD_SECONDS = 300
_ID_WIDTH, _SHORT_ID_WIDTH = 36, 8
# A column of text that is 80 wide, and what is added of a wider terminal.
_NARROW = 80
_MAX_WORKERS = 4
_BEAT_SILENCE_SECONDS = 30
_DIM, _HEAD, _GOOD, _BAD, _LOOK, _CHOSEN = "dim", "bold", "green", "bold red", "yellow", "reverse"


class Sort(StrEnum):
    """What processes are sorted by."""

    AGE = "age"
    MEMORY = "memory"
    WORKER = "worker"
    TASK = "task"


@dataclass(frozen=True)
class Row:
    """A process of a worker."""

    node: str
    child: "Child"
    seconds: float  # for which it has been at its task


@dataclass
class View:
    """What the person at the terminal has chosen."""

    sort: Sort = Sort.AGE
    chosen: str | None = None  # the id of a task
    is_paused: bool = False
    asks: bool = False  # whether to stop the chosen task
    said: str = ""

    def move(self, rows: Sequence[Row], by: int) -> None:
        """Choose the task before or after."""
        ids = [row.child.work.id for row in rows if row.child.work]
        if not ids:
            self.chosen = None
        elif self.chosen in ids:
            self.chosen = ids[min(max(ids.index(self.chosen) + by, 0), len(ids) - 1)]
        else:
            self.chosen = ids[0]


@dataclass(frozen=True)
class Shown:
    """What both sources have said."""

    broker: Seen[BrokerReading]
    counts: "Seen[Counts]"


def processes(reading: BrokerReading, sort: Sort) -> list[Row]:
    """The processes of all workers, those at work first."""
    rows = [
        Row(worker.node, child, child.work.seconds + worker.age if child.work else 0)
        for worker in reading.workers
        if worker.report
        for child in worker.report.children
    ]
    return sorted(rows, key=lambda row: (row.child.work is None, *_order(row, sort)))


def _order(row: Row, sort: Sort) -> tuple[Any, ...]:
    match sort:
        case Sort.AGE:
            return (-row.seconds,)
        case Sort.MEMORY:
            return (-(row.child.pss or 0),)
        case Sort.WORKER:
            return (row.node, row.child.pid)
        case Sort.TASK:
            return (row.child.work.name if row.child.work else "", -row.seconds)


def frame(shown: Shown, view: View, clock: str, width: int, height: int) -> list[Text]:
    """The lines of the screen."""
    reading = shown.broker.value
    lines = [_title(reading, view, width, clock), *_troubles(shown, width)]
    if reading is not None:
        lines += [*_beside(list(_queues(reading.queues)), list(_right(shown)), width), Text()]
        lines += [*_workers(reading.workers, width), Text()]
        lines += _processes(processes(reading, view.sort), view, width, height - len(lines) - 1)
    elif shown.broker.trouble is None:
        lines.append(Text("Reading …"))
    lines = lines[: height - 1]
    return [*lines, *[Text()] * (height - 1 - len(lines)), _footer(view, width)]


def _title(reading: BrokerReading | None, view: View, width: int, clock: str) -> Text:
    words = [("metabuilder top", _HEAD)]
    if reading is not None:
        children = [child for one in reading.workers if one.report for child in one.report.children]
        busy = sum(child.work is not None for child in children)
        words.append((f"  workers: {sum(one.is_up for one in reading.workers)}, busy: {busy} of {len(children)}", ""))
        ticked = reading.beat_seconds
        is_late = ticked is None or ticked > _BEAT_SILENCE_SECONDS
        beat = "never" if ticked is None else f"{max(ticked, 0):.0f} s ago"
        words.append((f", beat: {beat}", _BAD if is_late else ""))
    line = Text.assemble(*words)
    right = "PAUSED  " * view.is_paused + clock
    line.truncate(max(width - len(right) - 1, 0))
    return Text.assemble(
        line, " " * max(width - cell_len(line.plain) - len(right), 1), (right, _LOOK if view.is_paused else _DIM)
    )


def _troubles(shown: Shown, width: int) -> Iterator[Text]:
    for seen in (shown.broker, shown.counts):
        if seen.trouble is not None:
            since = f" (below: as of {duration(time.monotonic() - seen.at)} ago)" if seen.value is not None else ""
            # On two lines at most: what happened comes first in the sentence, and what to do last.
            for line in wrap(visible(f"{seen.trouble}{since}"), width, max_lines=2, placeholder=" …"):
                yield Text(line, style=_BAD)


def _queues(rows: Sequence[QueueRow]) -> Iterator[Text]:
    widths = (8, -7, -12, -6, -6)
    yield _row(("QUEUE", "DEPTH", "OLDEST", "IN/S", "OUT/S"), widths, _HEAD)
    for row in rows:
        oldest = row.reading.oldest_seconds
        cells = (
            row.reading.name,
            f"{row.reading.depth:,}",
            "" if oldest is None else duration(oldest),
            _rate(row.in_rate),
            _rate(row.out_rate),
        )
        yield _row(cells, widths, _BAD if (oldest or 0) > _OLD_SECONDS else "")


def _right(shown: Shown) -> Iterator[Text]:
    """Beside the queues: accounts that are not well, and the slowest tasks."""
    widths = (28, -6)
    yield _row(("ACCOUNTS THAT FAIL", "NUMBER"), widths, _HEAD)
    accounts = shown.counts.value.accounts if shown.counts.value else []
    unwell = sorted((one for one in accounts if one.state != "first_sync"), key=lambda one: -one.accounts)
    for one in unwell[:2]:
        why = (one.error_code or one.state).replace("_", " ")
        yield _row((f"{one.provider} {why}", f"{one.accounts:,}"), widths, _BAD)
    if not unwell:
        yield _row(("none" if shown.counts.value else "not known", ""), widths, _DIM)
    yield _row(("SLOWEST TASKS, LAST MINUTE", "MEAN s"), widths, _HEAD)
    slowest = shown.broker.value.slowest if shown.broker.value else ()
    for task in slowest[:3]:
        yield _row((f"{short(task.name)} ({task.runs:,})", f"{task.seconds:.2f}"), widths)
    if not slowest:
        yield _row(("none ended", ""), widths, _DIM)


def _workers(found: "Sequence[WorkerReading]", width: int) -> Iterator[Text]:
    widths = (20 + max(width - _NARROW, 0), 10, -7, -8, -8, -9, -12)
    yield _row(("WORKER", "STATE", "BUSY", "RESERVED", "RESTARTS", "MEMORY", "UP FOR"), widths, _HEAD)
    # Those that are not well first: the others may not all have room.
    ordered = sorted(found, key=lambda worker: worker.consumes)
    for worker in ordered[:_MAX_WORKERS]:
        report = worker.report
        if report is None:
            yield _row((worker.node, "down", "", "", "", "", ""), widths, _BAD)
            continue
        busy = sum(child.work is not None for child in report.children)
        memory = sum(pss or 0 for pss in (report.pss, *(child.pss for child in report.children)))
        state = "stopping" if report.is_stopping else "consumes" if report.consumes else "takes none"
        cells = (
            worker.node,
            state,
            f"{busy}/{len(report.children)}",
            f"{report.reserved}",
            f"{report.restarts}",
            size(memory),
            duration(report.seconds + worker.age),
        )
        yield _row(cells, widths, "" if worker.consumes else _LOOK)
    if not found:
        yield Text("no worker has reported", style=_BAD)
    if len(found) > _MAX_WORKERS:
        yield Text(f"… and {len(found) - _MAX_WORKERS} more", style=_DIM)


def _processes(rows: Sequence[Row], view: View, width: int, height: int) -> list[Text]:
    id_width = _ID_WIDTH if width >= _NARROW + _ID_WIDTH - _SHORT_ID_WIDTH else _SHORT_ID_WIDTH
    extra = max(width - _NARROW - (id_width - _SHORT_ID_WIDTH), 0)
    widths = (-8, 16 + extra // 2, -9, 22 + (extra - extra // 2), id_width, -9)
    lines = [_row(("PROCESS", "WORKER", "MEMORY", "TASK", "ID", "FOR"), widths, _HEAD)]
    room = height - 1
    place = next((n for n, row in enumerate(rows) if row.child.work and row.child.work.id == view.chosen), 0)
    first = min(max(place - room + 1, 0), max(len(rows) - room, 0)) if room > 0 else 0
    for row in rows[first : first + max(room, 0)]:
        work = row.child.work
        memory = "" if row.child.pss is None else size(row.child.pss)
        cells = (
            str(row.child.pid),
            row.node,
            memory,
            *((short(work.name), work.id, duration(row.seconds)) if work else ("", "", "")),
        )
        style = _CHOSEN if work and work.id == view.chosen else "" if work else _DIM
        lines.append(_row(cells, widths, style))
    return lines


def _footer(view: View, width: int) -> Text:
    if view.asks:
        return Text(_cell(f"Stop {view.chosen} and keep it from running again? y / n", width), style=_LOOK)
    keys = f"q quit  s sort: {view.sort}  p {'go on' if view.is_paused else 'pause'}  ↑ ↓ choose a task  r revoke"
    return Text(_cell(view.said or keys, width), style=_LOOK if view.said else _DIM)


def _beside(left: list[Text], right: list[Text], width: int) -> list[Text]:
    """Two blocks beside each other, where the terminal is wide enough for both."""
    if width < _NARROW:
        return left
    left_width = max(cell_len(line.plain) for line in left)
    gap = "  "
    return [
        Text.assemble(left[n] if n < len(left) else " " * left_width, gap, right[n] if n < len(right) else "")
        for n in range(max(len(left), len(right)))
    ]


def _row(cells: Sequence[str], widths: Sequence[int], style: str = "") -> Text:
    """Cells of these widths, aligned to the right where a width is negative."""
    return Text(" ".join(_cell(cell, width) for cell, width in zip(cells, widths, strict=True)), style=style)


def _cell(text: str, width: int) -> str:
    shown, room = visible(text), abs(width)
    if cell_len(shown) > room:
        return f"{set_cell_size(shown, room - 1)}…"
    return set_cell_size(shown, room) if width > 0 else " " * (room - cell_len(shown)) + shown


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
