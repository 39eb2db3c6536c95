"""What settings are worth: the choices of each side by side, in turns, on the same servers.

./manage.sh bench tuning                        all subjects
./manage.sh bench tuning --subject prefetch     one of them
./manage.sh bench tuning --json                 for machines

Each figure is the median of the rounds. A ratio is to the first choice of the same round, so that what else the
machine does counts for both; its spread is the lowest and the highest of the rounds.
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psycopg2
import redis
from rich.console import Console
from rich.table import Table

from benchmarks.support import mailbox
from benchmarks.support.sending import TEXT, add_sender, running_sink
from benchmarks.support.stack import TENANT, USER, Stack, running
from native.postgres import libpq

_ROUNDS = 3
_MAILS = 300
_PUBLISHED = 1000
_MAILBOX = 3000
_SMALL_MAILBOX = 1000
_LONG_SYNCS, _MAILS_BETWEEN = 40, 12
_PATIENCE_SECONDS = 120

console = Console(stderr=True)


@dataclass(frozen=True)
class Choice:
    """One way to set it: the environment, settings of Redis, processes, and those of a pool for `send` alone."""

    label: str
    environment: Mapping[str, str] = field(default_factory=dict)
    redis: Mapping[str, str] = field(default_factory=dict)
    processes: int = 4
    of_send: int = 0


Figures = dict[str, float]


@dataclass(frozen=True)
class Subject:
    """What is compared, by which measurement; the first choice is what the others are compared with."""

    title: str
    measure: Callable[[Stack, Choice], Figures]
    choices: Sequence[Choice]


def _sending(delay: int) -> Callable[[Stack, Choice], Figures]:
    """Mails a second that were queued before the worker started, its CPU time for each, its memory and sessions."""

    def measure(stack: Stack, choice: Choice) -> Figures:
        with running_sink(stack.root / f"{time.monotonic_ns()}", delay) as sink, stack.database():
            account = add_sender(sink)
            for number in range(_MAILS):
                _send(account, number)
            with stack.started_worker(choice.processes) as worker:
                sent, used = sink.count(), worker.cpu_seconds()
                rate = sink.rate(_MAILS)
                return {
                    "mails/s": rate,
                    "CPU ms a mail": 1000 * (worker.cpu_seconds() - used) / (_MAILS - sent),
                    "worker MB": worker.memory_mb(),
                    "connections": _connections(stack),
                }

    return measure


def _send(account: str, number: int) -> Any:
    from tasks.celery_app import send_email

    to = [f"user{number}@example.org"]
    return send_email.delay(account, TENANT, USER, to, subject=f"Message {number}", body_text=TEXT)


def _queueing(stack: Stack, _: Choice) -> Figures:
    """Mails that one program queues in a second."""
    with stack.database(), _client(stack) as client:
        began = time.monotonic()
        for number in range(_PUBLISHED):
            _send("account", number)
        queued = _PUBLISHED / (time.monotonic() - began)
        client.flushall()
    return {"queued/s": queued}


def _connections(stack: Stack) -> float:
    """Sessions of the worker at PostgreSQL."""
    from tasks.storage import session

    session.get_engine().dispose()  # this process has one as the same role
    with psycopg2.connect(libpq(stack.postgres.superuser_url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'metabuilder_worker' AND datname LIKE 'bench_%%'"
        )
        found = cursor.fetchone()
        assert found is not None
        return float(found[0])


def _first_sync(stack: Stack, choice: Choice) -> Figures:
    """Messages a second of a first sync, and the memory of the child and of its parser at their highest."""
    user = f"batches{_MAILBOX}"
    if not stack.maildir(user).exists():
        mailbox.build(stack.maildir(user), _MAILBOX)
        with stack.database(), stack.started_worker():
            stack.sync(stack.add_account(user))  # Dovecot's index is made by the first who looks
    with stack.database(), stack.started_worker(choice.processes) as worker:
        used = worker.cpu_seconds()
        with worker.watched() as peak:
            seconds = stack.sync(stack.add_account(user))["sync_duration_seconds"]
        used = 1000 * (worker.cpu_seconds() - used) / _MAILBOX
    return {"messages/s": _MAILBOX / seconds, "CPU ms each": used, "child MB": peak.own, "parser MB": peak.started}


def _mail_beside_syncs(stack: Stack, choice: Choice) -> Figures:
    """How long a mail takes from the call to its result, while first syncs keep the other processes busy."""
    from tasks.celery_app import sync_emails

    user = f"beside{_SMALL_MAILBOX}"
    if not stack.maildir(user).exists():
        mailbox.build(stack.maildir(user), _SMALL_MAILBOX)
    folder = stack.root / f"{time.monotonic_ns()}"
    with running_sink(folder, 1) as sink, stack.database(), ExitStack() as workers:
        account = add_sender(sink)
        for number in range(_LONG_SYNCS):
            sync_emails.delay(stack.add_account(user, name=f"{user}-{number}"), TENANT, USER)
        if choice.of_send:
            workers.enter_context(stack.started_worker(choice.of_send, queues="send"))
        others = "sync,periodic,delete,spam,webhooks,reread" if choice.of_send else ""
        workers.enter_context(stack.started_worker(choice.processes, queues=others))
        _send(account, -1).get(timeout=_PATIENCE_SECONDS, interval=0.005)  # opens the connections
        waits = []
        for number in range(_MAILS_BETWEEN):
            began = time.monotonic()
            _send(account, number).get(timeout=_PATIENCE_SECONDS, interval=0.005)
            waits.append(time.monotonic() - began)
        left = _waiting(stack, "sync")
    if not left:
        raise SystemExit("the syncs were over before the last mail: more of them are needed")
    return {"mail ms": 1000 * statistics.median(waits), "slowest mail ms": 1000 * max(waits)}


@contextmanager
def _client(stack: Stack) -> Iterator["redis.Redis"]:
    with redis.Redis(port=stack.redis.port, password=stack.redis.password) as client:
        yield client


def _waiting(stack: Stack, queue: str) -> int:
    with _client(stack) as client:
        return int(client.llen(queue))


def _memory_of_tasks(stack: Stack, _: Choice) -> Figures:
    """Bytes of Redis for each task that waits, with a mail of 2 kB, and for each sync."""
    with stack.database(), _client(stack) as client:
        return {"mail B": _memory_of_one(client, _send), "sync B": _memory_of_one(client, _sync)}


def _sync(account: str, number: int) -> Any:
    from tasks.celery_app import sync_emails

    return sync_emails.delay(f"{account}-{number}", TENANT, USER)


def _memory_of_one(client: "redis.Redis", queue: Callable[[str, int], Any]) -> float:
    client.flushall()
    before = client.info("memory")["used_memory"]
    for number in range(_PUBLISHED):
        queue("account", number)
    return float((client.info("memory")["used_memory"] - before) / _PUBLISHED)


SUBJECTS = {
    "processes": Subject(
        "Processes (celery_worker_concurrency), a mail server 10 ms away",
        _sending(10),
        [Choice(f"{count}", processes=count) for count in (1, 4, 8)],
    ),
    "prefetch": Subject(
        "Prefetch (celery_worker_prefetch_multiplier), 4 processes, a mail server 1 ms away",
        _sending(1),
        [Choice(str(count), {"CELERY_WORKER_PREFETCH_MULTIPLIER": str(count)}) for count in (1, 4, 16)],
    ),
    "recycling": Subject(
        "Tasks of a process (celery_worker_max_tasks_per_child), 4 processes, a mail server 1 ms away",
        _sending(1),
        [Choice(str(count), {"CELERY_WORKER_MAX_TASKS_PER_CHILD": str(count)}) for count in (1000, 20)],
    ),
    "batches": Subject(
        f"Batches of a first sync of {_MAILBOX:,} messages of 20 kB",
        _first_sync,
        [
            Choice("3 MB (default)", processes=1),
            Choice("0.5 MB", {"SYNC_BATCH_BYTES": str(512 * 1024)}, processes=1),
            Choice("12 MB", {"SYNC_BATCH_BYTES": str(12 * 1024**2), "SYNC_BATCH_SIZE": "5000"}, processes=1),
        ],
    ),
    "persistence": Subject(
        "Redis' append-only file, one program that queues mails",
        _queueing,
        [
            Choice("everysec (default)", redis={"appendonly": "yes", "appendfsync": "everysec"}),
            Choice("always", redis={"appendonly": "yes", "appendfsync": "always"}),
            Choice("no file", redis={"appendonly": "no"}),
        ],
    ),
    "separation": Subject(
        "A mail while first syncs wait for every process",
        _mail_beside_syncs,
        [Choice("4 processes for all queues"), Choice("3 for the others, 1 for send", processes=3, of_send=1)],
    ),
    "memory": Subject("Memory of Redis for each waiting task", _memory_of_tasks, [Choice("")]),
}


def _compare(stack: Stack, subject: Subject, rounds: int) -> dict[str, list[Figures]]:
    """The figures of each choice by round."""
    found: dict[str, list[Figures]] = {choice.label: [] for choice in subject.choices}
    for number in range(rounds):
        # Every second round goes backwards, so that none always comes after the same other.
        for choice in subject.choices if number % 2 == 0 else reversed(subject.choices):
            console.print(f"{subject.title}: {choice.label}, round {number + 1} of {rounds} …")
            with _set(stack, choice):
                found[choice.label].append(subject.measure(stack, choice))
    return found


@contextmanager
def _set(stack: Stack, choice: Choice) -> Iterator[None]:
    from tasks.settings import get_settings

    before = {name: os.environ.get(name) for name in choice.environment}
    os.environ.update(choice.environment)
    get_settings.cache_clear()
    with _client(stack) as client:
        client.flushall()
        for name, value in choice.redis.items():
            client.config_set(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            os.environ.pop(name)
            os.environ.update({} if old is None else {name: old})


def _rows(found: Mapping[str, Sequence[Figures]]) -> Iterator[tuple[str, str, str]]:
    """Choice, figure with its median, and the ratio with its spread."""
    first = next(iter(found.values()))
    for label, rounds in found.items():
        for name in rounds[0]:
            median = statistics.median(one[name] for one in rounds)
            ratios = [one[name] / base[name] for one, base in zip(rounds, first, strict=True) if base[name]]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
            yield label, f"{name} {median:,.1f}", spread if rounds is not first else ""


@click.command(help=__doc__)
@click.option("--subject", "wanted", type=click.Choice(list(SUBJECTS)), multiple=True, help="Only this one.")
@click.option("--rounds", type=click.IntRange(min=1), default=_ROUNDS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the figures of each round.")
def main(wanted: tuple[str, ...], rounds: int, as_json: bool) -> None:
    root = Path(tempfile.mkdtemp(prefix="bench-tuning-"))
    root.chmod(0o755)
    try:
        with running(root) as stack:
            results = {name: _compare(stack, SUBJECTS[name], rounds) for name in wanted or SUBJECTS}
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        click.echo(json.dumps(results, indent=2))
        return
    for name, found in results.items():
        table = Table("choice", "median", "ratio (lowest to highest)", title=SUBJECTS[name].title)
        for row in _rows(found):
            table.add_row(*row)
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
