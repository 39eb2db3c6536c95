"""The status page as HTML: no script, and nothing loaded from elsewhere.

Every text goes through `_escaped`: names of accounts and servers and words of errors are others'.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

from tasks.monitoring.exporter.status import MOST, Broker, Database, Status
from tasks.monitoring.exporter.verdict import Level, findings, late_accounts, open_letters
from tasks.monitoring.readings.workers import WorkerReading, tasks_at_work
from tasks.secrecy.visible import visible
from tasks.storage.counts import OVERDUE_SECONDS
from tasks.storage.states import OutboxState

_MOST_WORKERS = 24
# Characters of a name, and of an error's words.
_MOST_NAME, _MOST_WORDS = 48, 140
# Browsers load the page anew by themselves.
_REFRESH_SECONDS = 15
# What `default-src` of a Content-Security-Policy does not cover.
_NOT_BY_DEFAULT = ("base-uri", "form-action", "frame-ancestors")
_UNREADABLE = "cannot be read now"


class Cell(NamedTuple):
    """A cell of a table, with a note in small letters below. `kind` are classes of the style sheet."""

    text: str
    kind: str = ""
    note: str = ""


Row = Sequence[Cell | str]


def render(status: Status) -> bytes:
    """The page, in UTF-8."""
    found = findings(status)
    is_bad = any(finding.level == Level.BAD for finding in found)
    verdict = ("bad", "Work stands still") if is_bad else ("ok", "The site works")
    lines = "".join(f'<li class="{finding.level}">{_escaped(finding.words)}</li>' for finding in found)
    parts = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">',
        f"<title>{_escaped(verdict[1])} – MetaBuilder</title><style>{_style()}</style></head><body>",
        f'<header class="{verdict[0]}"><h1>{_escaped(verdict[1])}</h1><p>MetaBuilder email workers</p></header>',
        f'<ul class="findings">{lines}</ul>' if lines else "",
        f'<ul class="tiles">{"".join(_tiles(status))}</ul><main>',
        *_sections(status),
        "</main></body></html>\n",
    )
    return "".join(parts).encode()


def content_security_policy() -> str:
    """Nothing but the style of this page: also what got past the escaping would load and run nothing."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    nothing = "; ".join(f"{directive} 'none'" for directive in ("default-src", *_NOT_BY_DEFAULT))
    return f"{nothing}; style-src 'sha256-{digest}'"


def _sections(status: Status) -> Iterator[str]:
    yield _section(
        "Queues",
        ("queue", Cell("waiting", "number"), Cell("oldest", "number"), "consumed"),
        _queues(status),
        "There is no queue",
    )
    yield _section(
        "Workers",
        (
            "worker",
            "state",
            Cell("busy", "number"),
            Cell("memory", "number wide"),
            "longest task",
            Cell("release", "wide"),
        ),
        _workers(status.broker),
        "No worker has reported within a day",
    )
    database = status.database
    yield _section(
        "Failing accounts, the newest",
        ("account", "error", Cell("server", "wide"), Cell("for", "number")),
        None if database is None else _accounts(database),
        "No account fails",
    )
    yield _section(
        "Dead letters, the newest",
        ("task", "error", Cell("tries", "number wide"), Cell("ago", "number")),
        None if database is None else _letters(database),
        "No task failed for good",
    )


def _tiles(status: Status) -> Iterator[str]:
    broker, database = status.broker, status.database
    yield _tile("Redis", "answers" if broker else "away", "" if broker else "bad")
    yield _tile("PostgreSQL", "answers" if database else "away", "" if database else "bad")
    if broker:
        up = sum(worker.is_up for worker in broker.workers)
        yield _tile("workers up", f"{up} of {len(broker.workers)}", "" if up == len(broker.workers) else "warn")
        yield _tile("messages waiting", f"{sum(queue.depth for queue in broker.queues):,}")
        yield _tile("in hand", f"{broker.in_hand:,}")
        silence = broker.beat.ticked
        yield _tile("beat", "never" if silence is None else f"{_duration(silence)} ago")
    if database:
        counts = database.counts
        failing = sum(row.accounts for row in counts.accounts if row.state in ("failing", "paused"))
        yield _tile("accounts, about", f"{counts.accounts_estimate:,}")
        yield _tile("failing or paused", f"{failing:,}", "warn" if failing else "")
        late, letters = late_accounts(database), open_letters(database)
        yield _tile(f"late by {_duration(OVERDUE_SECONDS)}", f"{late:,}", "warn" if late else "")
        yield _tile("dead letters", f"{letters:,}", "warn" if letters else "")
        outbox = {row.state: row.messages for row in counts.outbox}
        unknown = outbox.get(OutboxState.UNKNOWN, 0)
        yield _tile("mail waiting", f"{outbox.get(OutboxState.QUEUED, 0):,}")
        yield _tile("mail in doubt", f"{unknown:,}", "warn" if unknown else "")


def _queues(status: Status) -> Iterable[Row] | None:
    if status.broker is None:
        return None
    consumed = {queue.name: queue for queue in status.consumption or ()}
    rows = []
    for queue in status.broker.queues:
        found = consumed.get(queue.name)
        if found is None:
            shown = Cell("not known", "warn")
        elif found.seconds is not None:
            shown = Cell(f"yes, in {found.seconds * 1000:.0f} ms", "ok")
        else:
            why = f"yes, {found.at_work} at work" if found.at_work else "after the others"
            shown = Cell(why, "ok") if found.ok else Cell("no", "bad")
        oldest = "" if queue.oldest_seconds is None else _duration(queue.oldest_seconds)
        rows.append((queue.name, Cell(f"{queue.depth:,}", "number"), Cell(oldest, "number"), shown))
    return rows


def _workers(broker: Broker | None) -> Iterable[Row] | None:
    if broker is None:
        return None
    # Those that are not well first, each part by name
    workers = sorted(broker.workers, key=lambda worker: worker.consumes)
    rows = [_worker(worker) for worker in workers[:_MOST_WORKERS]]
    more = len(workers) - len(rows)
    return [*rows, (f"… and {more:,} more",)] if more else rows


def _worker(worker: WorkerReading) -> Row:
    report = worker.report
    if report is None:
        return (
            _cut(worker.node),
            Cell("down", "bad", f"{_duration(worker.age)} ago"),
            "",
            Cell("", "wide"),
            "",
            Cell("", "wide"),
        )
    state = Cell("consumes", "ok") if report.consumes else Cell("stops" if report.is_stopping else "idle", "warn")
    at_work = max(tasks_at_work([worker]), key=lambda task: task.seconds, default=None)
    longest = f"{at_work.work.name.rpartition('.')[2]}, {_duration(at_work.seconds)}" if at_work else ""
    busy = sum(child.work is not None for child in report.children)
    memory = sum(part or 0 for part in (report.pss, *(child.pss for child in report.children)))
    return (
        _cut(worker.node),
        state,
        Cell(f"{busy} of {report.concurrency}", "number"),
        Cell(f"{memory / 1024**2:.0f} MB", "number wide"),
        _cut(longest),
        Cell(_cut(report.release or "clone"), "wide"),
    )


def _accounts(database: Database) -> Iterable[Row]:
    return [
        (
            Cell(_cut(account.account_name), note=_cut(account.tenant_id)),
            _error(account.error_code or "", account.error or "", "paused" if account.is_paused else ""),
            Cell(_cut(account.hostname), "wide"),
            Cell(_duration(account.seconds), "number"),
        )
        for account in database.failing[:MOST]
    ]


def _letters(database: Database) -> Iterable[Row]:
    return [
        (
            Cell(_cut(letter.task_name.rpartition(".")[2]), note=_cut(letter.tenant_id)),
            _error(letter.error_code, letter.error, "queued again" if letter.is_retried else ""),
            Cell(str(letter.attempts), "number wide"),
            Cell(_duration(letter.seconds), "number"),
        )
        for letter in database.letters[:MOST]
    ]


def _error(code: str, words: str, state: str) -> Cell:
    return Cell(_cut(f"{code}, {state}" if state else code), "code", _cut(words, _MOST_WORDS))


def _cut(text: str, most: int = _MOST_NAME) -> str:
    """The text as one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _section(title: str, heads: Row, rows: Iterable[Row] | None, nothing: str) -> str:
    """A table under a title; `rows` is None where they cannot be read."""
    if rows is None:
        body = f'<p class="bad">{_UNREADABLE}</p>'
    elif lines := "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows):
        head = "".join(_cell(name, "th") for name in heads)
        body = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    else:
        body = f"<p>{_escaped(nothing)}</p>"
    return f"<section><h2>{_escaped(title)}</h2>{body}</section>"


def _cell(cell: Cell | str, tag: str = "td") -> str:
    text, kind, note = cell if isinstance(cell, Cell) else Cell(cell)
    small = f"<small>{_escaped(note)}</small>" if note else ""
    return f'<{tag} class="{_escaped(kind)}">{_escaped(text)}{small}</{tag}>'


def _tile(name: str, value: str, kind: str = "") -> str:
    return f'<li class="{_escaped(kind)}"><b>{_escaped(value)}</b> {_escaped(name)}</li>'


def _escaped(text: str) -> str:
    return escape(visible(text))


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


@cache
def _style() -> str:
    return (Path(__file__).parent / "status.css").read_text()
