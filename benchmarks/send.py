"""Messages a second through the worker, beside smtplib with one connection and with one per message, in the same run.

./manage.sh bench send                      1,000 messages; servers on this machine, 1 ms and 10 ms away
./manage.sh bench send --messages 500       fewer
./manage.sh bench send --json               for machines

The server has each message on its disk before it answers, as servers must. smtplib only sends; the worker takes each
message from the broker, keeps it in PostgreSQL, sends it so that nothing can send it twice, and stores the result.
Empty tasks are what Celery alone could do at most: they send nothing, keep nothing and have no result.
The second table says which programs that takes, in CPU time, so that it can be read on a busy machine too.
"""

import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.support.cpu import cpu_seconds
from benchmarks.support.sending import TEXT, Sink, add_sender, running_sink
from benchmarks.support.stack import TENANT, USER, Stack, running

_MESSAGES = 1000
# Of fewer, most are sent before the worker is known to be ready.
_FEWEST = 500
_ROUNDS = 3
_DELAYS = (0, 1, 10)
_CHILDREN = (1, 4)
# Enough that some are left when the worker is known to be ready.
_EMPTY_TASKS = 3000

console = Console(stderr=True)


@dataclass(frozen=True)
class Result:
    """Messages a second, medians.

    `outbox` is the engine in one process without a broker, `worker` by the number of the worker's child processes.
    `smtplib_cpu_ms` and `worker_cpu_ms` are CPU milliseconds a message by program, of smtplib with one connection and
    of the worker with the most children; they leave out its start.
    """

    delay_ms: int
    messages: int
    one_connection: float
    connection_per_message: float
    outbox: float
    worker: dict[int, float]
    smtplib_cpu_ms: dict[str, float]
    worker_cpu_ms: dict[str, float]

    def beside(self, rate: float) -> str:
        """The rate, and what it is of smtplib's with one connection."""
        return f"{rate:,.0f}  ({rate / self.one_connection:.2f})"


def _message(number: int) -> bytes:
    message = EmailMessage()
    message["From"], message["To"] = f"{USER}@example.net", f"user{number}@example.org"
    message["Subject"], message["Message-ID"] = f"Message {number}", f"<{number}@example.net>"
    message.set_content(TEXT)
    return message.as_bytes()


def _one_connection(sink: Sink, messages: list[bytes]) -> None:
    with sink.connect() as smtp:
        for number, message in enumerate(messages):
            smtp.sendmail(f"{USER}@example.net", [f"user{number}@example.org"], message)


def _connection_per_message(sink: Sink, messages: list[bytes]) -> None:
    for number, message in enumerate(messages):
        with sink.connect() as smtp:
            smtp.sendmail(f"{USER}@example.net", [f"user{number}@example.org"], message)


class Usage:
    """CPU seconds by program, and the messages that they were for."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._messages = 0

    @contextmanager
    def counted(self, sink: Sink, messages: int) -> Iterator[None]:
        """Add what the block takes, at whose end so many messages have arrived."""
        arrived, before = sink.count(), cpu_seconds()
        yield
        self._seconds += cpu_seconds() - before
        self._messages += messages - arrived

    def ms_per_message(self) -> dict[str, float]:
        """CPU milliseconds by program."""
        return {program: round(1000 * s / self._messages, 2) for program, s in self._seconds.most_common()}


def _measured(
    sink: Sink, messages: list[bytes], send: Callable[[Sink, list[bytes]], None], usage: Usage | None = None
) -> float:
    sink.reset()
    with usage.counted(sink, len(messages)) if usage else nullcontext():
        send(sink, messages)
    return sink.rate(len(messages))


def _through_the_worker(stack: Stack, sink: Sink, count: int, children: int, usage: Usage) -> float:
    """All are queued before the worker starts, so that nothing but the worker is measured.

    What it uses is counted from when it is ready.
    """
    from tasks.celery_app import send_email

    sink.reset()
    with stack.database():
        account = add_sender(sink)
        for number in range(count):
            to = [f"user{number}@example.org"]
            send_email.delay(account, TENANT, USER, to, subject=f"Message {number}", body_text=TEXT)
        with stack.started_worker(children), usage.counted(sink, count):
            return sink.rate(count)


def _empty_tasks(stack: Stack) -> float:
    """Empty tasks a second through the most children: what Celery alone could do at most, wherever the server is."""
    console.print("empty tasks …")
    return round(statistics.median(_empty_task_rate(stack, _EMPTY_TASKS) for _ in range(_ROUNDS)), 1)


def _empty_task_rate(stack: Stack, count: int) -> float:
    """All are queued before the worker starts."""
    from benchmarks.support import empty_task

    app, left = empty_task.app, empty_task.QUEUE
    with app.connection_for_write() as connection, connection.default_channel as channel:
        for _ in range(count):
            empty_task.nothing.delay()
        with stack.started_worker(_CHILDREN[-1], f"{empty_task.__name__}:app"):
            first, started = channel.client.llen(left), time.monotonic()
            while channel.client.llen(left) or channel.client.zcard("unacked_index"):
                time.sleep(0.01)
            return float(first / (time.monotonic() - started))


def _through_the_outbox(stack: Stack, sink: Sink, count: int) -> float:
    """What a worker does for each message, without Celery."""
    from tasks.engine.connection_cache import smtp_pool
    from tasks.engine.send.draft import SendRequest
    from tasks.engine.send.outbox import send

    sink.reset()
    with stack.database():
        account = add_sender(sink)
        for number in range(count):
            to = [f"user{number}@example.org"]
            request = SendRequest(account, TENANT, USER, to, subject=f"Message {number}", body_text=TEXT)
            send(request, f"task:{number}", f"{number}:1")
        smtp_pool().close()
        return sink.rate(count)


def _measure(stack: Stack, count: int, delay: int) -> Result:
    messages = [_message(number) for number in range(count)]
    one, each, outbox = [], [], []
    ours: dict[int, list[float]] = {children: [] for children in _CHILDREN}
    smtplib_usage, usage = Usage(), {children: Usage() for children in _CHILDREN}
    with running_sink(stack.root, delay) as sink:
        for number in range(_ROUNDS):
            console.print(f"{delay} ms away, round {number + 1} of {_ROUNDS} …")
            one.append(_measured(sink, messages, _one_connection, smtplib_usage))
            each.append(_measured(sink, messages, _connection_per_message))
            outbox.append(_through_the_outbox(stack, sink, count))
            for children in _CHILDREN:
                ours[children].append(_through_the_worker(stack, sink, count, children, usage[children]))
    return Result(
        delay_ms=delay,
        messages=count,
        one_connection=round(statistics.median(one), 1),
        connection_per_message=round(statistics.median(each), 1),
        outbox=round(statistics.median(outbox), 1),
        worker={children: round(statistics.median(rates), 1) for children, rates in ours.items()},
        smtplib_cpu_ms=smtplib_usage.ms_per_message(),
        worker_cpu_ms=usage[_CHILDREN[-1]].ms_per_message(),
    )


def _show(results: list[Result], empty_tasks: float) -> None:
    table = Table(title="Messages sent a second (medians), and ÷ smtplib with one connection")
    for heading in ("server", "smtplib, one connection", "smtplib, one per message", "outbox, 1 process"):
        table.add_column(heading, justify="right")
    for children in _CHILDREN:
        table.add_column(f"worker, {children} process{'es' * (children > 1)}", justify="right")
    for result in results:
        table.add_row(
            f"{result.delay_ms} ms away",
            f"{result.one_connection:,.0f}",
            f"{result.connection_per_message:,.0f}",
            result.beside(result.outbox),
            *(result.beside(result.worker[children]) for children in _CHILDREN),
        )
    output = Console(width=120)
    output.print(table)
    used = Table(title="CPU milliseconds a message")
    for heading in ("server", "smtplib, one connection", f"worker, {_CHILDREN[-1]} processes"):
        used.add_column(heading)
    for result in results:
        used.add_row(f"{result.delay_ms} ms away", _words(result.smtplib_cpu_ms), _words(result.worker_cpu_ms))
    output.print(used)
    output.print(f"Empty tasks through {_CHILDREN[-1]} processes: {empty_tasks:,.0f} a second")


def _words(cpu_ms: dict[str, float]) -> str:
    programs = ", ".join(f"{program} {ms:.2f}" for program, ms in cpu_ms.items() if ms >= 0.01)
    return f"{sum(cpu_ms.values()):.2f}: {programs}"


@click.command()
@click.option("--messages", type=click.IntRange(_FEWEST), default=_MESSAGES, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def main(messages: int, as_json: bool) -> None:
    """Measure sending."""
    root = Path(tempfile.mkdtemp(prefix="bench-send-"))
    try:
        with running(root) as stack:
            empty_tasks = _empty_tasks(stack)
            results = [_measure(stack, messages, delay) for delay in _DELAYS]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        click.echo(json.dumps({"empty_tasks": empty_tasks, "servers": [asdict(r) for r in results]}, indent=2))
    else:
        _show(results, empty_tasks)


if __name__ == "__main__":
    main()
