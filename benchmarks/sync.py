"""First sync and resync of a large mailbox, beside the raw IMAP stream, mbsync and offlineimap in the same run.

The floor is a sync whose other parts cost nothing: receiving, making HTML safe and inserting rows, all at once.

./manage.sh bench sync                      1,000, 10,000 and 50,000 messages, 100 new among 100,000, and a plot
./manage.sh bench sync --messages 10000     one size
./manage.sh bench sync --json               for machines
"""

import json
import shutil
import statistics
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.support import mailbox, peers
from benchmarks.support.floor import floor
from benchmarks.support.stack import Stack, running

_SIZES = (1_000, 10_000, 50_000)
# offlineimap takes minutes beyond this, and what the floor inserts is held in memory.
_OFFLINEIMAP_UP_TO = _FLOOR_UP_TO = 10_000
# Of large mailboxes one round is enough; the small ones vary.
_REPEATED_UP_TO = 10_000
_PRESENT, _NEW = 100_000, 100
_APPENDED_AT_ONCE = 5_000
_TABLE_WIDTH = 140
_PLOT = Path(".bench/sync.png")

console = Console(stderr=True)


@dataclass(frozen=True)
class Result:
    """One size of mailbox. Seconds are medians; ratios are of messages per second, ours over theirs.

    The floor is a sync of which only three parts cost anything (benchmarks/support/floor.py). `peak_rss_mb` is of the
    worker's child, `parser_peak_rss_mb` of the process in which it has messages parsed (0 where there are few).
    """

    messages: int
    bytes: int
    messages_per_second: float
    seconds: float
    raw_stream_seconds: float
    mbsync_seconds: float | None
    offlineimap_seconds: float | None
    floor_seconds: float | None
    ratio_to_raw_stream: float
    ratio_to_mbsync: float | None
    ratio_to_offlineimap: float | None
    resync_seconds: float
    peak_rss_mb: float
    parser_peak_rss_mb: float
    new_among_many_seconds: float | None = None


@click.command(help=__doc__)
@click.option("--messages", type=click.IntRange(min=1), help="Only this size.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Medians of how many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(messages: int | None, rounds: int, as_json: bool) -> None:
    root = Path(tempfile.mkdtemp(prefix="bench-sync-"))
    root.chmod(0o755)
    try:
        with running(root) as stack:
            sizes = [messages] if messages else list(_SIZES)
            results = [_measure(stack, size, rounds if size <= _REPEATED_UP_TO else 1) for size in sizes]
            if messages is None:
                results[-1] = replace(results[-1], new_among_many_seconds=_new_among_many(stack))
            version = stack.postgres.postgres.major_version()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        click.echo(json.dumps(asdict(results[0]) if messages else [asdict(result) for result in results], indent=2))
    else:
        _show(results, f"Dovecot, PostgreSQL {version} and the worker on this machine")
    if len(results) > 1:
        _plot(results)


def _measure(stack: Stack, count: int, rounds: int) -> Result:
    user = f"user{count}"
    console.print(f"building a mailbox of {count:,} messages …")
    size = mailbox.build(stack.maildir(user), count)
    peers.raw_stream(stack.dovecot, user, count)  # Dovecot's index is made by the first who looks
    ours, resyncs, memory, raw, theirs, floors = [], [], [], [], [], []
    for number in range(rounds):
        console.print(f"{count:,} messages, round {number + 1} of {rounds} …")
        raw.append(peers.raw_stream(stack.dovecot, user, count))
        with stack.worker() as worker:
            account = stack.add_account(user)
            with worker.watched() as peak:
                result = stack.sync(account)
            if result["messages_synced"] != count:
                raise SystemExit(f"{result['messages_synced']} of {count} messages were synced")
            ours.append(result["sync_duration_seconds"])
            memory.append(peak)
            resyncs += [_after_login(stack.sync(account)) for _ in range(5)]
        if count <= _FLOOR_UP_TO:
            floors.append(floor(stack, user, count))
        theirs.append(peers.mbsync(stack.dovecot, user, count, stack.root / f"mbsync-{count}-{number}"))
    slow = None
    if count <= _OFFLINEIMAP_UP_TO:
        console.print(f"{count:,} messages, offlineimap …")
        slow = peers.offlineimap(stack.dovecot, user, count, stack.root / f"offlineimap-{count}")
    seconds, raw_seconds = statistics.median(ours), statistics.median(raw)
    mbsync_seconds = statistics.median([t for t in theirs if t is not None]) if None not in theirs else None
    return Result(
        messages=count,
        bytes=size,
        messages_per_second=round(count / seconds),
        seconds=seconds,
        raw_stream_seconds=round(raw_seconds, 3),
        mbsync_seconds=mbsync_seconds and round(mbsync_seconds, 3),
        offlineimap_seconds=slow and round(slow, 3),
        floor_seconds=round(statistics.median(floors), 3) if floors else None,
        ratio_to_raw_stream=round(raw_seconds / seconds, 3),
        ratio_to_mbsync=mbsync_seconds and round(mbsync_seconds / seconds, 2),
        ratio_to_offlineimap=slow and round(slow / seconds, 2),
        resync_seconds=round(statistics.median(resyncs), 4),
        peak_rss_mb=round(max(peak.own for peak in memory), 1),
        parser_peak_rss_mb=round(max(peak.started for peak in memory), 1),
    )


def _new_among_many(stack: Stack) -> float:
    """Seconds from login to done for a few new messages in a folder of many.

    Served from mdbox, Dovecot's format for large folders. To open a Maildir of this size in which something is new,
    Dovecot alone reads its directory for 0.3 s, which is not what is measured here.
    """
    console.print(f"{_NEW} new among {_PRESENT:,} …")
    times = []
    with stack.large_folders() as dovecot, stack.worker():
        for first in range(0, _PRESENT, _APPENDED_AT_ONCE):
            mailbox.append(dovecot, "many", _APPENDED_AT_ONCE, first)
        account = stack.add_account("many", dovecot)
        stack.sync(account)
        for number in range(5):
            mailbox.append(dovecot, "many", _NEW, _PRESENT + number * _NEW)
            result = stack.sync(account)
            if result["messages_synced"] != _NEW:
                raise SystemExit(f"{result['messages_synced']} of {_NEW} new messages were synced")
            times.append(_after_login(result))
    return round(statistics.median(times), 4)


def _after_login(result: dict[str, float]) -> float:
    return result["sync_duration_seconds"] - result["connect_seconds"]


def _show(results: list[Result], subject: str) -> None:
    table = Table(title=f"First sync: {subject}")
    for heading in ("messages", "MB", "messages/s", "raw stream/s", "mbsync/s", "offlineimap/s", "floor/s"):
        table.add_column(heading, justify="right")
    for heading in ("÷ raw", "÷ mbsync", "÷ offlineimap", "resync ms", "MB + parser"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            f"{result.messages:,}",
            f"{result.bytes / 1e6:,.0f}",
            f"{result.messages_per_second:,.0f}",
            *(
                _rate(result.messages, seconds)
                for seconds in (
                    result.raw_stream_seconds,
                    result.mbsync_seconds,
                    result.offlineimap_seconds,
                    result.floor_seconds,
                )
            ),
            f"{result.ratio_to_raw_stream:.2f}",
            _or_dash(result.ratio_to_mbsync),
            _or_dash(result.ratio_to_offlineimap),
            f"{result.resync_seconds * 1000:.0f}",
            f"{result.peak_rss_mb:.0f} + {result.parser_peak_rss_mb:.0f}",
        )
    # Wide enough for its headings also where the output goes to a file.
    Console(width=max(Console().width, _TABLE_WIDTH)).print(table)
    if (seconds := results[-1].new_among_many_seconds) is not None:
        Console().print(f"{_NEW} new messages among {_PRESENT:,}: {seconds:.3f} s after login")


def _rate(messages: int, seconds: float | None) -> str:
    return "–" if seconds is None else f"{messages / seconds:,.0f}"


def _or_dash(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def _plot(results: list[Result]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    sizes = [result.messages for result in results]
    series: dict[str, list[float] | list[float | None]] = {
        "this project": [result.seconds for result in results],
        "raw stream": [result.raw_stream_seconds for result in results],
        "mbsync": [result.mbsync_seconds for result in results],
        "offlineimap": [result.offlineimap_seconds for result in results],
    }
    for label, seconds in series.items():
        points = [(size, value) for size, value in zip(sizes, seconds, strict=True) if value is not None]
        if points:
            times.plot([size for size, _ in points], [value for _, value in points], marker="o", label=label)
    times.set(title="First sync", xlabel="messages", ylabel="seconds", xscale="log", yscale="log")
    times.legend()
    memory.plot(sizes, [result.peak_rss_mb for result in results], marker="o", label="worker's child")
    memory.plot(sizes, [result.parser_peak_rss_mb for result in results], marker="o", label="its parser")
    memory.axhline(200, linestyle="--", color="grey", label="200 MB")
    memory.set(title="Peak memory", xlabel="messages", ylabel="MB", xscale="log", ylim=(0, 250))
    memory.legend()
    figure.tight_layout()
    _PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(_PLOT, dpi=110)
    console.print(f"plot: {_PLOT}")


if __name__ == "__main__":
    main()
