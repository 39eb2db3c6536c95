"""How soon new mail in watched mailboxes is a row, and how soon the application can read its event; beside polling.

./manage.sh bench freshness                     10 mailboxes on Dovecot, 1,000 and 10,000 on a scripted server
./manage.sh bench freshness --accounts 1000     one number
./manage.sh bench freshness --json              for machines

From the moment at which the mail server has a message until PostgreSQL has committed its row, and until a reader that
listens has read its event; one message a second, each to another mailbox. The scripted server speaks TLS, runs in a
process of its own on the same machine, and allows so many logins a second that warming up is not held up by it.
Polling is computed: a message comes at any moment of the interval between two syncs.
"""

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.support.cpu import cpu_seconds
from benchmarks.support.stack import Stack, running
from benchmarks.support.watching import (
    Accounts,
    DovecotMailServer,
    EventReader,
    MailServer,
    percentiles,
    scripted_server,
)
from tests.support.certificates import Authority

_NUMBERS = (10, 1_000, 10_000)
# Up to here on Dovecot.
_DOVECOT_UP_TO = 10
# Memory without TLS is measured up to here: more accounts need the same for each.
_PLAIN_UP_TO = 1_000
# What the process needs anyway is not counted: the memory for so many accounts is subtracted.
_FIRST = 10
_CHILDREN = 2
_LOGINS_PER_SECOND = 1000
_POLL_SECONDS = 300
_PLOT = Path(".bench/freshness.png")

console = Console(stderr=True)


@dataclass(frozen=True)
class Result:
    """So many watched mailboxes. Seconds are the median and what 99 of 100 messages do not exceed.

    `cpu_ms` are CPU milliseconds a message, and `warm_cpu_seconds` what warming up took, both by program. What an
    account takes of memory is the watcher's own; None where it was not measured. `load` is the machine's load
    average at the end.
    """

    accounts: int
    server: str
    messages: int
    row_median: float
    row_p99: float
    event_median: float
    event_p99: float
    polling_median: float
    polling_p99: float
    cpu_ms: dict[str, float]
    warm_seconds: float
    warm_cpu_seconds: dict[str, float]
    kb_per_account_tls: float | None
    kb_per_account_plain: float | None
    idle_cpu_percent: float | None
    idle_postgres_cpu_percent: float | None
    load: float


@click.command(help=__doc__)
@click.option("--accounts", type=click.IntRange(min=2, max=15_000), help="Only this number.")
@click.option("--messages", type=click.IntRange(1, 3600), default=120, show_default=True, help="How many arrive.")
@click.option(
    "--idle-seconds",
    type=click.IntRange(min=1, max=3600),
    default=300,
    show_default=True,
    help="For how long the watcher's CPU is measured while nothing arrives; by default once around all folders.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(accounts: int | None, messages: int, idle_seconds: int, as_json: bool) -> None:
    root = Path(tempfile.mkdtemp(prefix="bench-freshness-"))
    root.chmod(0o755)
    os.environ["WATCH_HOST_LOGINS_PER_SECOND"] = str(_LOGINS_PER_SECOND)
    try:
        authority = Authority(root)
        os.environ["SSL_CERT_FILE"] = str(authority.certificate)
        with running(root, {"track_commit_timestamp": "on"}) as stack:
            numbers = [accounts] if accounts else list(_NUMBERS)
            results = [_measure(stack, authority, number, messages, idle_seconds) for number in numbers]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
    else:
        _show(results)
    _plot(results)


def _measure(stack: Stack, authority: Authority, number: int, messages: int, idle_seconds: int) -> Result:
    console.print(f"{number:,} mailboxes …")
    is_dovecot = number <= _DOVECOT_UP_TO
    plain = None
    if not is_dovecot and number <= _PLAIN_UP_TO:
        with _watched(stack, None, number) as watched:
            plain = watched.kb_per_account
    with _watched(stack, None if is_dovecot else authority, number, is_dovecot) as watched:
        idle = idle_postgres = None
        if not is_dovecot:
            console.print(f"idle for {idle_seconds} s …")
            used = cpu_seconds()
            time.sleep(idle_seconds)
            idle, idle_postgres = (
                round(100 * seconds / idle_seconds, 2)
                for seconds in ((cpu_seconds() - used)["watcher"], (cpu_seconds() - used)["postgres"])
            )
        console.print(f"{messages} messages …")
        rows, events, cpu_ms = _deliver(watched.server, watched.accounts, messages)
    row_median, row_p99 = percentiles(rows)
    event_median, event_p99 = percentiles(events)
    return Result(
        accounts=number,
        server="Dovecot" if is_dovecot else "scripted, TLS",
        messages=messages,
        row_median=round(row_median, 3),
        row_p99=round(row_p99, 3),
        event_median=round(event_median, 3),
        event_p99=round(event_p99, 3),
        polling_median=_POLL_SECONDS / 2,
        polling_p99=_POLL_SECONDS * 0.99,
        cpu_ms=cpu_ms,
        warm_seconds=round(watched.warm_seconds, 1),
        warm_cpu_seconds=watched.warm_cpu_seconds,
        kb_per_account_tls=None if is_dovecot else watched.kb_per_account,
        kb_per_account_plain=plain,
        idle_cpu_percent=idle,
        idle_postgres_cpu_percent=idle_postgres,
        load=round(os.getloadavg()[0], 1),
    )


@dataclass(frozen=True)
class _Watched:
    server: MailServer
    accounts: Accounts
    warm_seconds: float
    warm_cpu_seconds: dict[str, float]
    kb_per_account: float


@contextmanager
def _watched(stack: Stack, authority: Authority | None, number: int, is_dovecot: bool = False) -> Iterator[_Watched]:
    """So many accounts on a server of their own, all watched, and a worker for what changes."""
    with ExitStack() as running_now:
        running_now.enter_context(stack.database())
        running_now.enter_context(stack.started_worker(_CHILDREN, queues="sync"))
        server: MailServer = (
            DovecotMailServer(stack) if is_dovecot else running_now.enter_context(scripted_server(authority))
        )
        accounts = Accounts(stack, server.port, "tls" if authority else "none")
        accounts.make(min(_FIRST, number - 1))
        watcher = running_now.enter_context(stack.started_watcher())
        accounts.wait_until_watched()
        memory, used, few = watcher.memory_kb(), cpu_seconds(), accounts.number
        accounts.make(number)
        seconds = accounts.wait_until_watched()
        yield _Watched(
            server,
            accounts,
            seconds,
            {program: round(spent, 1) for program, spent in (cpu_seconds() - used).most_common()},
            round((watcher.memory_kb() - memory) / (number - few), 1),
        )


def _deliver(
    server: MailServer, accounts: Accounts, messages: int
) -> tuple[list[float], list[float], dict[str, float]]:
    """Deliver a message a second. The seconds of each until its row and until its event; CPU by program."""
    used = cpu_seconds()
    with EventReader() as reader:
        began = time.monotonic()
        for number in range(messages):
            time.sleep(max(0.0, began + number - time.monotonic()))
            server.deliver(f"user-{number % accounts.number}", number)
        reader.wait_for(messages)
    spent: Counter[str] = cpu_seconds() - used
    committed, numbers = accounts.committed(), accounts.message_ids()
    if len(committed) != messages:
        raise SystemExit(f"{len(committed)} of {messages} messages are stored")
    return (
        [committed[number] - since for number, since in server.has_since.items()],
        [moment - server.has_since[numbers[row]] for row, moment in reader.read.items()],
        {program: round(1000 * seconds / messages, 1) for program, seconds in spent.most_common()},
    )


def _show(results: list[Result]) -> None:
    table = Table(title=f"New mail in watched mailboxes, and with syncs every {_POLL_SECONDS} s (computed)")
    headings = ("mailboxes", "server", "row s", "p99", "event s", "p99", "polling s", "p99", "warm s")
    for heading in (*headings, "kB each, TLS", "plain", "idle CPU %", "load"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            f"{result.accounts:,}",
            result.server,
            *(f"{value:.2f}" for value in (result.row_median, result.row_p99, result.event_median, result.event_p99)),
            *(f"{value:.0f}" for value in (result.polling_median, result.polling_p99, result.warm_seconds)),
            *(_or_dash(value, 0) for value in (result.kb_per_account_tls, result.kb_per_account_plain)),
            _or_dash(result.idle_cpu_percent, 1),
            f"{result.load:.1f}",
        )
    Console(width=max(Console().width, 140)).print(table)
    for result in results:
        for what, used in (("s of the warm-up", result.warm_cpu_seconds), ("ms a message", result.cpu_ms)):
            programs = ", ".join(f"{name} {value}" for name, value in used.items())
            Console().print(f"{result.accounts:,} mailboxes, CPU {what}: {programs}")


def _or_dash(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _plot(results: list[Result]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    places = range(len(results))
    for offset, label, values in (
        (-0.3, "row, median", [result.row_median for result in results]),
        (-0.1, "event, median", [result.event_median for result in results]),
        (0.1, "event, 99 of 100", [result.event_p99 for result in results]),
        (0.3, f"polling every {_POLL_SECONDS} s, median", [result.polling_median for result in results]),
    ):
        axes.bar([place + offset for place in places], values, width=0.2, label=label)
    axes.set(title="From the mail server to the application", ylabel="seconds", yscale="log")
    axes.set_xticks(list(places), [f"{result.accounts:,} mailboxes\n{result.server}" for result in results])
    axes.axhline(1, linestyle="--", color="grey")
    axes.legend()
    figure.tight_layout()
    _PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(_PLOT, dpi=110)
    console.print(f"plot: {_PLOT}")


if __name__ == "__main__":
    main()
