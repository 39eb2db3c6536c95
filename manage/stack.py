"""`up`, `down`, `restart`, `ps`, `logs`, `health`: the native stack."""

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from manage.examples import example
from manage.log_options import LINES, log_options, say_no_line
from manage.output import Coloured, confirm, duration, good_or_bad, print_json, say, size, table
from manage.units import service_argument

if TYPE_CHECKING:
    from native.check import Check
    from native.stack import Stack, Started
    from native.supervisor import Status

LOGS = (
    "worker",
    "beat",
    "flower",
    "exporter",
    "watcher",
    "redis",
    "postgres",
    "demo-imap",
    "demo-smtp",
    "adminer",
    "redis-commander",
    "inbox",
    "supervisord",
    "all",
)


@example("up", "up worker", "up --with-admin")
@click.command()
@service_argument
@click.option(
    "--with-admin/--without-admin",
    default=None,
    help="Also run pages that show the database (Adminer) and Redis (Redis Commander), where the machine has what "
    "they need; or run them no more.",
)
def up(service: str | None, with_admin: bool | None) -> None:
    """Start every program that is down, or one of ours, and wait until it does its work.

    PostgreSQL and Redis come in Python packages, which Debian does not update: for trying and developing. Machines
    that serve others get Debian's by ansible-playbook (docs/deployment.md).
    """
    stack = _stack()
    if service and with_admin is not None:
        raise click.UsageError("--with-admin is about pages beside all programs: leave out the name of one")
    if service is None:
        announce(stack, stack.up(with_admin=with_admin))
    elif not stack.start(service):
        say(f"{service} is already up")


@example("down", "down flower")
@click.command()
@service_argument
@click.option("--purge", is_flag=True, help="Delete the state folder too: the database, every synced message.")
@click.option("--yes", is_flag=True, help="Do not ask before deleting.")
def down(service: str | None, purge: bool, yes: bool) -> None:
    """Stop everything, or one of our programs until the next `up`. A worker first finishes what it is at."""
    if service and purge:
        raise click.UsageError("--purge deletes the data of all programs: leave out the name of one")
    stack = _stack()
    folder = stack.state.folder
    if service:
        say(f"{service} is stopped" if stack.stop(service) else f"{service} was not running")
        return
    if purge and not yes and folder.exists():
        confirm(f"Delete {folder} with the database and all synced mail?")
    say("The native stack is down" if stack.down() else "The native stack was not running")
    if purge:
        stack.state.purge()
        say(f"{folder} is deleted")


@example("restart", "restart worker")
@click.command()
@service_argument
def restart(service: str | None) -> None:
    """Stop everything and start it again, or one of our programs. A worker first finishes what it is at."""
    stack = _stack()
    if service:
        stack.restart(service)
        return
    stack.down()
    announce(stack, stack.up())


@example("worker:reload")
@click.command(name="worker:reload")
def worker_reload() -> None:
    """Restart the worker after the tasks that it is at. The same as `restart worker`.

    Changed settings come with `up`, which restarts the worker by itself.
    """
    _stack().restart("worker")


@example("worker:drain")
@click.command(name="worker:drain")
def worker_drain() -> None:
    """Stop the worker after the tasks that it is at, and keep it stopped until `up`.

    Messages that it has taken and not begun go back to their queues.
    """
    _stack().stop("worker")
    say("The worker is stopped; ./manage.sh up starts it")


@example("beat:restart")
@click.command(name="beat:restart")
def beat_restart() -> None:
    """Restart beat. What is due in between is queued late. The same as `restart beat`."""
    _stack().restart("beat")


@example("rebuild")
@click.command()
def rebuild() -> None:
    """Stop everything, make .venv anew from the locked requirements, and start the native stack."""
    # manage.sh has stopped the stack and made .venv.
    stack = _stack()
    stack.down()
    announce(stack, stack.up())


@example("ps --json")
@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def ps(as_json: bool) -> None:
    """List the programs of the stack."""
    from native.state import State
    from native.supervisor import Supervisor

    state = State.default()
    ports = state.read().get("ports", {})
    rows = [_describe(status, ports) for status in Supervisor(state).status().values()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("The native stack is down: ./manage.sh up")
        return
    table(
        ("program", "state", "pid", "uptime", "port", "memory"),
        (
            (
                row["program"],
                good_or_bad(row["state"] == "running", row["state"]),
                str(row["pid"] or ""),
                duration(row["uptime_seconds"]) if row["pid"] else "",
                str(row["port"] or ""),
                size(row["memory_bytes"]) if row["pid"] else "",
            )
            for row in rows
        ),
        right=("pid", "uptime", "port", "memory"),
    )


@example("logs -f worker")
@click.command()
@log_options
@click.argument("name", type=click.Choice(LOGS), default="all", metavar="[PROGRAM|all]")
def logs(
    follow: bool, lines: int | None, since: datetime | None, account: str | None, task_id: str | None, name: str
) -> None:
    """Show the logs: worker, beat, flower, redis, postgres, or all of them.

    Lines of tasks end with fields, such as account=ID, by which lines can be chosen (docs/operations.md, Logs).
    """
    from native.logs import Wanted, show
    from native.state import State

    wanted = Wanted(since, account, task_id)
    if lines is None and wanted.is_everything:
        lines = LINES
    folder = State.default().logs
    names = [known for known in LOGS[:-1] if (folder / f"{known}.log").exists()] if name == "all" else [name]
    if not any((folder / f"{known}.log").exists() for known in names):
        say("There are no logs yet: ./manage.sh up")
        return
    is_any = show(folder, names, lines=lines, follow=follow, wanted=wanted)
    if not (is_any or follow):
        say_no_line(account, task_id)


@example("health --json", fails="a part does not do its work; below the table stands what to do")
@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def health(as_json: bool) -> None:
    """Say whether every part does its work, and how much mail waits; exit 1 if a part does not."""
    from native.environment import apply
    from native.health import check_all, configuration_is_valid
    from native.state import State

    state = State.default()
    configuration = configuration_is_valid()
    apply(state)
    checks = [configuration, *check_all(state)]
    if as_json:
        print_json([check.as_dict() for check in checks])
    else:
        table(
            ("component", "health", "detail"),
            ((check.component, _health(check), check.detail) for check in checks),
        )
        for check in checks:
            if check.warns or not check.ok:
                say(f"{check.component}: {check.advice}")
    sys.exit(0 if all(check.ok for check in checks) else 1)


def announce(stack: "Stack", started: "Started") -> None:
    """Print the addresses of the programs that started."""
    from native import admin_uis, inbox

    if not started.changed:
        say("The native stack is already up")
    say(f"Flower   http://127.0.0.1:{started.ports['flower']}  (user and password: FLOWER_BASIC_AUTH in")
    say(f"         {stack.state.secrets})")
    say(f"Status   http://127.0.0.1:{started.ports['exporter']}  (the same user and password; metrics: /metrics)")
    for name, title in admin_uis.TITLES.items():
        if name in stack.supervisor.status():
            say(f"{title}: http://127.0.0.1:{started.ports[name]}  (user {admin_uis.USER}, password:")
            say(f"         {admin_uis.PASSWORD} in {stack.state.secrets})")
    if inbox.NAME in stack.supervisor.status():
        say(f"Inbox    http://127.0.0.1:{started.ports[inbox.NAME]}  (any user; password: {inbox.PASSWORD} in")
        say(f"         {stack.state.secrets})")
    say("Next     ./manage.sh ps | health | logs -f | account add")


def _stack() -> "Stack":
    from native.stack import Stack
    from native.state import State

    return Stack(State.default(), say)


def _health(check: "Check") -> Coloured:
    if check.warns:
        return Coloured("warning", "yellow")
    return good_or_bad(check.ok, "ok" if check.ok else "not ok" if check.component == "configuration" else "DOWN")


def _describe(status: "Status", ports: dict[str, int]) -> dict[str, Any]:
    return {
        "program": status.name,
        "state": status.state.lower(),
        "pid": status.pid or None,
        "uptime_seconds": round(time.time() - status.started) if status.pid else 0,
        "port": ports.get(status.name),
        "memory_bytes": _memory(status.pid) if status.pid else 0,
    }


def _memory(pid: int) -> int:
    """Memory of a process and its children, what they share counted once (PSS, as `worker:info` has it)."""
    import psutil

    total = 0
    try:
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            try:
                found = member.memory_full_info()
            except psutil.AccessDenied:
                found = member.memory_info()
            total += getattr(found, "pss", found.rss)  # Linux alone tells it, of one's own processes
    except psutil.NoSuchProcess:
        pass
    return total
