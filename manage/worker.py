"""`worker:ping`, `worker:info` and `worker:shutdown`: the worker processes.

The workers are known by what they last reported to Redis (every 2 s), so that nobody waits for an answer.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from manage.examples import example
from manage.messages import short
from manage.output import Coloured, confirm, duration, good_or_bad, print_json, say, size, table
from manage.place import COMMAND, LOOK_AT_HEALTH
from manage.session import application, broker_alone, json_option
from native.errors import StackError

if TYPE_CHECKING:
    from tasks.monitoring.readings.workers import WorkerReading
    from tasks.monitoring.report import Child

_nodes = click.argument("nodes", metavar="[WORKER]...", nargs=-1)


def _find(nodes: Sequence[str]) -> "list[WorkerReading]":
    """The workers of these names, or all. Raises StackError where one has not reported within a day."""
    with broker_alone() as client:
        from tasks.monitoring.readings.workers import workers

        found = [worker for worker in workers(client) if not nodes or worker.node in nodes]
    if missing := set(nodes) - {worker.node for worker in found}:
        raise StackError(
            f"no worker of this name has reported: {', '.join(sorted(missing))}; see {COMMAND} worker:info"
        )
    return found


@example("worker:ping", "worker:ping worker@mail1", fails="a worker is down or takes no messages, or there is none")
@click.command(name="worker:ping")
@_nodes
@json_option
def ping(nodes: tuple[str, ...], as_json: bool) -> None:
    """Say of each worker whether it takes messages.

    A worker that was stopped is not listed, one that died is listed for a day.
    """
    found = _find(nodes)
    if as_json:
        print_json([{"worker": one.node, "state": _state(one).text, "seconds": round(one.age, 1)} for one in found])
    elif found:
        table(
            ("worker", "state", "reported"),
            ((one.node, _state(one), f"{duration(one.age)} ago") for one in found),
            right=("reported",),
        )
    if not found:
        say(f"No worker has reported. {LOOK_AT_HEALTH}")
    sys.exit(0 if found and all(one.consumes for one in found) else 1)


def _state(worker: "WorkerReading") -> Coloured:
    if worker.report is None:
        return Coloured("down", "red")
    if worker.report.is_stopping:
        return Coloured("stopping", "yellow")
    return good_or_bad(worker.consumes, "consumes" if worker.consumes else "does not consume")


@example("worker:info", "worker:info worker@mail1 --json")
@click.command(name="worker:info")
@_nodes
@json_option
def info(nodes: tuple[str, ...], as_json: bool) -> None:
    """Show the workers, their processes, and the task and the memory of each process."""
    found = _find(nodes)
    if as_json:
        print_json([_for_programs(worker) for worker in found])
        return
    if not found:
        say(f"No worker has reported. {LOOK_AT_HEALTH}")
        return
    table(
        ("worker", "state", "pid", "release", "up for", "busy", "reserved", "restarts", "memory"),
        map(_row, found),
        right=("pid", "up for", "busy", "reserved", "restarts", "memory"),
    )
    children = [(worker.node, child) for worker in found if worker.report for child in worker.report.children]
    if children:
        table(
            ("worker", "process", "memory", "task", "id", "for"),
            (_child_row(node, child) for node, child in children),
            right=("process", "memory", "for"),
            whole=("id",),
        )


def _for_programs(worker: "WorkerReading") -> dict[str, Any]:
    report = worker.report.model_dump() if worker.report else {}
    return {**report, "node": worker.node, "state": _state(worker).text, "age_seconds": round(worker.age, 1)}


def _row(worker: "WorkerReading") -> tuple[str | Coloured, ...]:
    report = worker.report
    if report is None:
        return (worker.node, _state(worker), *[""] * 7)
    busy = sum(child.work is not None for child in report.children)
    memory = sum(pss or 0 for pss in (report.pss, *(child.pss for child in report.children)))
    return (
        worker.node,
        _state(worker),
        str(report.pid),
        report.release,
        duration(report.seconds + worker.age),
        f"{busy}/{len(report.children)}",
        str(report.reserved),
        str(report.restarts),
        size(memory),
    )


def _child_row(node: str, child: "Child") -> tuple[str, ...]:
    memory = size(child.pss) if child.pss is not None else ""
    if child.work is None:
        return node, str(child.pid), memory, "", "", ""
    return node, str(child.pid), memory, short(child.work.name), child.work.id, duration(child.work.seconds)


@example("worker:shutdown worker@mail1", "worker:shutdown --all --yes")
@click.command(name="worker:shutdown")
@_nodes
@click.option("--all", "is_all", is_flag=True, help="All workers.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def shutdown(nodes: tuple[str, ...], is_all: bool, yes: bool) -> None:
    """Have workers end after the tasks that they are at.

    supervisor (in a clone) and systemd (on hosts) start them again, with the settings of that moment. To keep a
    worker stopped: `./manage.sh worker:drain`, on a host systemctl stop celery-worker.

    A worker that is named and is down is forgotten, as where its host is gone: `health` no longer waits for it.
    """
    if bool(nodes) == is_all:
        raise click.UsageError("name the workers (worker:info lists them), or give --all")
    found = _find(nodes)
    up = [worker.node for worker in found if worker.is_up]
    down = [worker.node for worker in found if nodes and not worker.is_up]
    if not up + down:
        raise StackError("no worker is up")
    if not yes:
        ends = f"End {', '.join(up)} after the tasks that they are at? " if up else ""
        confirm(ends + (f"Forget {', '.join(down)}, of which nothing is heard?" if down else ""))
    if up:
        application().control.shutdown(destination=up)
        say(f"{', '.join(up)}: told to end")
    if down:
        with broker_alone() as client:
            from tasks.monitoring.report import take_back

            for node in down:
                take_back(client, node)
        say(f"{', '.join(down)}: forgotten")
