"""`task:status`, `task:run`, `task:revoke` and `task:retry`: one task."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from manage.dlq import retry as retry_letters
from manage.examples import example
from manage.output import confirm, print_json, say, table, tell
from manage.place import COMMAND
from manage.session import application, broker_alone, connect, json_option
from native.errors import StackError
from tasks.registry import TASKS

if TYPE_CHECKING:
    from redis import Redis

    from tasks.monitoring.readings.workers import TaskAtWork

_NAMES = {row.function: row.name for row in TASKS}
_name = click.Choice(list(_NAMES))
_PATIENCE_SECONDS = 300
_HOUR = 3600
_REVOKED_HOURS = 24
_TOO_MANY = "{} tasks are revoked already: revoke by --name, or queue:flush"


def _task_id(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The id of a task. Raises BadParameter where no task can have it."""
    from tasks.runtime.arguments import check_identifier

    if value == "":
        raise click.BadParameter("must not be empty", param=parameter)
    try:
        if value is not None:
            check_identifier("ID", value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from error
    return value


@example("task:status 5a2c9d1e-6b1f-4f0e-9d55-0b6f3c1f7a10")
@click.command(name="task:status")
@click.argument("task_id", metavar="ID", callback=_task_id)
@json_option
def status(task_id: str, as_json: bool) -> None:
    """Show the state of a task, and which worker is at work on it.

    PENDING: the task waits in a queue, or ended longer than CELERY_RESULT_EXPIRES seconds ago, or there is no such
    task. Of results and errors, no words of mail are shown.
    """
    with broker_alone() as client:
        from tasks.monitoring.readings.workers import tasks_at_work, workers

        at_work = next((one for one in tasks_at_work(workers(client)) if one.work.id == task_id), None)
    found = _status(task_id, at_work)
    if as_json:
        print_json(found)
    else:
        table(("field", "value"), ((name, _text(value)) for name, value in found.items() if value is not None))


def _status(task_id: str, at_work: "TaskAtWork | None") -> dict[str, Any]:
    application()
    from tasks.runtime.control import get_task_status
    from tasks.runtime.redaction import redact_text, redact_values

    found = get_task_status(task_id)
    for part in ("result", "progress", "waiting"):
        if part in found:
            found[part] = redact_values(found[part])
    if "error" in found:
        found["error"] = redact_text(found["error"])
    if at_work:
        found |= {"worker": at_work.node, "pid": at_work.pid, "task": at_work.work.name, "seconds": at_work.seconds}
    return found


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={inner}" for name, inner in value.items())
    return str(round(value, 1)) if isinstance(value, float) else str(value)


@example(
    "task:run cleanup_stale_results --wait",
    """task:run sync_emails --kwargs '{"email_client_id": "1", "tenant_id": "default", "user_id": "admin"}'""",
    fails="the task was not queued, or (with --wait) it failed; a line on standard error says why",
)
@click.command(name="task:run")
@click.argument("name", type=_name)
@click.option("--kwargs", "given", default="{}", metavar="JSON", help="The arguments by name.  [default: none]")
@click.option("--wait", is_flag=True, help="Wait for the result, and print it.")
@click.option(
    "--timeout",
    default=_PATIENCE_SECONDS,
    show_default=True,
    type=click.IntRange(0, 86_400),
    metavar="SECONDS",
    help="How long to wait.",
)
@json_option
def run(name: str, given: str, wait: bool, timeout: int, as_json: bool) -> None:
    """Queue a task. `tasks registered` lists the names, docs/tasks.md the arguments."""
    kwargs = _arguments(given)
    connect(broker=True)
    try:
        task = application().tasks[_NAMES[name]].apply_async(kwargs=kwargs, retry=False)
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--kwargs") from error
    if not wait:
        if as_json:
            print_json({"task_id": task.id})
        else:
            tell(task.id)
            say(f"Queued. To look at it: {COMMAND} task:status {task.id}")
        return
    result = _result(task, timeout)
    if as_json:
        print_json({"task_id": task.id, "result": result})
    else:
        tell(_text(result))


def _arguments(given: str) -> dict[str, Any]:
    try:
        kwargs = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter("is no JSON", param_hint="--kwargs") from error
    if not isinstance(kwargs, dict):
        raise click.BadParameter('is no mapping like {"email_id": "1"}', param_hint="--kwargs")
    return kwargs


def _result(task: Any, timeout: int) -> Any:
    from celery.exceptions import TimeoutError as NotYetError

    from tasks.errors import EmailError
    from tasks.runtime.redaction import redact_text, redact_values

    try:
        return redact_values(task.get(timeout=timeout, interval=0.1))
    except NotYetError:
        raise StackError(f"not done within {timeout} s; see: {COMMAND} task:status {task.id}") from None
    except EmailError:
        raise
    except Exception as error:
        raise StackError(f"the task failed: {type(error).__name__}: {redact_text(str(error))}") from error


@example(
    "task:revoke 5a2c9d1e-6b1f-4f0e-9d55-0b6f3c1f7a10 --terminate",
    "task:revoke --name check_spam --hours 2",
    "task:revoke --name check_spam --lift",
)
@click.command(name="task:revoke")
@click.argument("task_id", metavar="[ID]", required=False, callback=_task_id)
@click.option("--name", type=_name, help="Every task of this name.")
@click.option("--terminate", is_flag=True, help="Stop also what runs.")
@click.option(
    "--hours",
    type=click.IntRange(1, 24 * 30),
    help=f"How long it holds.  [default: {_REVOKED_HOURS} for an ID, until --lift for a --name]",
)
@click.option("--lift", is_flag=True, help="With --name: let tasks of this name run again.")
@click.option("--yes", is_flag=True, help="With --name: do not ask.")
@json_option
def revoke(
    task_id: str | None, name: str | None, terminate: bool, hours: int | None, lift: bool, yes: bool, as_json: bool
) -> None:
    """Keep a task from running, or with --name every task of a name.

    A revocation is kept in Redis: workers that start later know it too, and each worker within a second. That of a
    name holds until --lift, or for --hours. Until then a worker drops each task of that name that it takes, those
    that beat queues as well: the work is not done. `tasks revoked` lists what is revoked, and `health` the names.

    With --terminate, what runs is stopped with its process; a sync goes on at its checkpoint the next time.
    """
    if (task_id is None) == (name is None):
        raise click.UsageError("give either the id of a task or --name")
    if lift and (name is None or terminate):
        raise click.UsageError("--lift goes with --name alone")
    if lift:
        _lift(str(name), as_json)
        return
    if hours is None and task_id is not None:
        hours = _REVOKED_HOURS
    how_long = "until it is lifted" if hours is None else f"for {hours} hour{'s' if hours > 1 else ''}"
    if name and not yes:
        confirm(f"Drop every {name} task {how_long}? The work of these tasks is not done")
    with broker_alone() as client:
        from tasks.monitoring.readings.workers import tasks_at_work, workers
        from tasks.runtime import revocations

        if name:
            is_kept = revocations.revoke_name(client, _NAMES[name], hours * _HOUR if hours else None)
            ids = [one.work.id for one in tasks_at_work(workers(client)) if one.work.name == _NAMES[name]]
        else:
            ids = [str(task_id)]
            is_kept = revocations.revoke_id(client, ids[0], (hours or _REVOKED_HOURS) * _HOUR)
    if not is_kept:
        raise StackError(_TOO_MANY.format(revocations.MAX_REVOCATIONS))
    _tell_workers(ids if task_id or terminate else [], terminate=terminate)
    if as_json:
        print_json({"revoked": task_id or name, "hours": hours, "terminated": ids if terminate else []})
    else:
        say(f"{task_id or name} is revoked {how_long}" + (", and stopped where it runs" if terminate else ""))
        if hours is None:
            say(f"To let it run again: {COMMAND} task:revoke --name {name} --lift")


def stop(client: "Redis", task_id: str) -> None:
    """Revoke a task for a day, and stop it where it runs. Raises StackError, and what Redis raises."""
    from tasks.runtime import revocations

    if not revocations.revoke_id(client, task_id, _REVOKED_HOURS * _HOUR):
        raise StackError(_TOO_MANY.format(revocations.MAX_REVOCATIONS))
    _tell_workers([task_id], terminate=True)


def _tell_workers(ids: list[str], *, terminate: bool) -> None:
    if ids:
        application()
        from tasks.runtime.control import revoke_task

        for task_id in ids:
            revoke_task(task_id, terminate=terminate)


def _lift(name: str, as_json: bool) -> None:
    with broker_alone() as client:
        from tasks.runtime import revocations

        was_revoked = revocations.lift(client, _NAMES[name])
    if as_json:
        print_json({"lifted": name if was_revoked else None})
    else:
        say(f"{name} runs again" if was_revoked else f"{name} was not revoked")


@example("task:retry 019ac8b1-5a7e-7cc3-8b1d-4c7f9d1e2a60")
@click.command(name="task:retry")
@click.argument("letter_id", metavar="ID")
@json_option
@click.pass_context
def retry(context: click.Context, letter_id: str, as_json: bool) -> None:
    """Queue a task that failed for good again, by the id of its dead letter (`tasks failed`).

    The same as `dlq retry ID`, which also retries many.
    """
    context.invoke(retry_letters, letter_ids=(letter_id,), as_json=as_json)
