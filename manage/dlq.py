"""`dlq`: dead letters (tasks that failed for good), and task messages that no worker could run."""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from manage.advice import advice, explained, said_here
from manage.examples import example
from manage.output import ago, complain, confirm, print_json, say, table, tell_lines
from manage.place import COMMAND
from manage.session import application, connect
from manage.trouble import redis_words

if TYPE_CHECKING:
    from tasks.storage.dead_letters import Summary


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose among the dead letters."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="For machines."),
        click.option("--code", help="Only with this error code."),
        click.option("--task", help="Only of this task: sync_emails, send_email …"),
        click.option("--tenant", help="Only of this tenant.  [default: of all]"),
    ):
        command = option(command)
    return command


@click.group()
def dlq() -> None:
    """List, look at, retry and drop tasks that failed for good, and messages that no worker could run."""


@example(
    "dlq list --task send_email --tenant default",
    fails="Redis fails, so that only the dead letters in PostgreSQL are listed",
)
@dlq.command(name="list")
@filters
def list_(tenant: str | None, task: str | None, code: str | None, as_json: bool) -> None:
    """List the dead letters, those that failed last at the end."""
    connect()
    found, is_all = _find_what_can_be_had(tenant, task, code)
    if as_json:
        print_json([letter._asdict() for letter in found])
    elif found:
        _show_all(found)
    elif is_all:
        say("There are no dead letters")
    if not is_all:
        sys.exit(1)


def _show_all(found: "list[Summary]") -> None:
    from tasks.storage.session import database_now

    now = database_now()
    table(
        ("id", "task", "tenant", "attempts", "failed", "error"),
        (
            (
                letter.id,
                letter.task_name.rpartition(".")[2],
                letter.tenant_id,
                str(letter.attempts),
                ago(letter.last_failed_at, now),
                f"{letter.error_code}: {said_here(letter.error)}"
                f"{'' if letter.retried_at is None else ' (being retried)'}",
            )
            for letter in found
        ),
        right=("attempts",),
    )


@example("dlq show 019ac8b1-5a7e-7cc3-8b1d-4c7f9d1e2a60")
@dlq.command()
@click.argument("letter_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def show(letter_id: str, as_json: bool) -> None:
    """Show a dead letter: the task and its arguments, without anybody's mail, and where the task failed."""
    connect()
    from tasks.errors import NotFoundError, Remedy
    from tasks.runtime.dead_letters import is_aside, is_not_published, show_aside
    from tasks.storage.dead_letters import get_letter

    known, _ = _find_what_can_be_had(None, None, None)
    found = next((letter for letter in known if letter.id == letter_id), None)
    if found is None:
        raise NotFoundError(f"dead letter {letter_id}")
    if is_aside(found):
        shown = {**show_aside(found.id), "traceback": ""}
    elif is_not_published(found):
        shown = {**found._asdict(), "traceback": ""}
    else:
        letter = get_letter(found.tenant_id, found.id)
        shown = {name: value for name, value in letter._asdict().items() if name not in ("credential_id", "task_key")}
    if as_json:
        print_json(shown)
        return
    traceback = shown.pop("traceback")
    table(("field", "value"), ((name, "" if value is None else str(value)) for name, value in shown.items()))
    tell_lines(traceback)
    say(advice(Remedy.RETRY_TASK, item_id=found.id) or "")


@example("dlq retry 019ac8b1-5a7e-7cc3-8b1d-4c7f9d1e2a60", "dlq retry --all --code storage_unavailable")
@dlq.command()
@click.argument("letter_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All that the other options choose.")
@filters
def retry(
    letter_ids: tuple[str, ...], is_all: bool, tenant: str | None, task: str | None, code: str | None, as_json: bool
) -> None:
    """Queue tasks again as they were. A task that succeeds is removed from the dead letters."""
    connect(broker=True)
    from tasks.runtime.dead_letters import (
        is_aside,
        is_not_published,
        retry_aside,
        retry_letter,
        retry_not_published,
    )
    from tasks.storage.dead_letters import get_letter

    def retry_one(found: "Summary") -> str:
        if is_not_published(found):
            return retry_not_published(found)
        return retry_aside(found.id) if is_aside(found) else retry_letter(get_letter(found.tenant_id, found.id))

    chosen = _choose(letter_ids, is_all=is_all, tenant=tenant, task=task, code=code)
    _do_each(chosen, retry_one, as_json, "task_ids", "queued again")


@example("dlq drop --all --task check_spam --yes")
@dlq.command()
@click.argument("letter_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All that the other options choose.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@filters
def drop(
    letter_ids: tuple[str, ...],
    is_all: bool,
    yes: bool,
    tenant: str | None,
    task: str | None,
    code: str | None,
    as_json: bool,
) -> None:
    """Delete dead letters with their arguments. The work of their tasks is not done."""
    connect(broker=True)
    from tasks.runtime.dead_letters import (
        drop_aside,
        drop_not_published,
        forget_letter,
        is_aside,
        is_not_published,
    )
    from tasks.storage.dead_letters import get_letter

    def drop_one(found: "Summary") -> str:
        if is_aside(found):
            drop_aside(found.id)
        elif is_not_published(found):
            drop_not_published(found)
        else:
            forget_letter(get_letter(found.tenant_id, found.id))
        return found.id

    chosen = _choose(letter_ids, is_all=is_all, tenant=tenant, task=task, code=code)
    found = [letter for letter in chosen.values() if letter]
    if found and not yes:
        confirm(f"Delete {len(found)} dead letters? The work of their tasks is not done")
    _do_each(chosen, drop_one, as_json, "dropped", "dropped")


def _find(tenant: str | None, task: str | None, code: str | None, *, with_messages: bool = True) -> list["Summary"]:
    """The dead letters and what was not published, in PostgreSQL, and the messages put aside, which are in Redis."""
    application()  # which tasks.runtime.dead_letters asks and queues through
    from tasks.runtime.dead_letters import list_aside, list_not_published
    from tasks.storage.dead_letters import list_letters

    return [
        letter
        for letter in (*(list_aside() if with_messages else ()), *list_not_published(), *list_letters())
        if tenant in (None, letter.tenant_id)
        and task in (None, letter.task_name, letter.task_name.rpartition(".")[2])
        and code in (None, letter.error_code)
    ]


def _find_what_can_be_had(tenant: str | None, task: str | None, code: str | None) -> tuple[list["Summary"], bool]:
    """The dead letters, and whether the list is complete: if Redis
    fails, this says so, and lists only those in PostgreSQL."""
    from kombu.exceptions import OperationalError
    from redis import RedisError

    try:
        return _find(tenant, task, code), True
    except (OperationalError, RedisError) as error:
        complain(f"messages that were put aside are not shown. {redis_words(error)}")
        return _find(tenant, task, code, with_messages=False), False


def _choose(
    letter_ids: tuple[str, ...], *, is_all: bool, tenant: str | None, task: str | None, code: str | None
) -> dict[str, "Summary | None"]:
    """The dead letters with the given ids, or with `--all` all that the filters let through, by id.

    None stands for an id that no dead letter has.
    """
    if bool(letter_ids) == is_all:
        raise click.UsageError("name dead letters by their ids, or choose with --all and the other options")
    known = {letter.id: letter for letter in _find(tenant, task, code)}
    return {letter_id: known.get(letter_id) for letter_id in (known if is_all else letter_ids)}


def _do_each(
    chosen: "Mapping[str, Summary | None]", act: "Callable[[Summary], str]", as_json: bool, name: str, done: str
) -> None:
    """Call `act` for each dead letter and print the ids that it returns. A dead letter for which this fails is named,
    and the others follow; then the program ends with 1.

    Raises the errors that would befall the other dead letters too, such as a broker that is away.
    """
    from tasks.errors import PermanentError

    ids = []
    try:
        for letter_id, found in chosen.items():
            if found is None:
                complain(
                    f"dead letter {letter_id}: Not found. {COMMAND} dlq list shows their ids, which tasks do not have"
                )
                continue
            try:
                ids.append(act(found))
            except PermanentError as error:
                complain(f"dead letter {letter_id}: {explained(error)}")
    except Exception:
        if ids:
            _report(ids, as_json, name, done)
        raise
    _report(ids, as_json, name, done)
    if len(ids) < len(chosen):
        sys.exit(1)


def _report(ids: list[str], as_json: bool, name: str, done: str) -> None:
    if as_json:
        print_json({name: ids})
    else:
        say(f"{len(ids)} {done}")
