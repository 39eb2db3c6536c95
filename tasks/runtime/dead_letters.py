"""Dead letters for the command line: tasks that failed for good, messages that no worker could run, and tasks queued
in SQL that beat could not publish."""

import time
from datetime import UTC, datetime
from typing import Any

from celery import current_app

from tasks.errors import MaybeSentError, MessageUnreadableError, NotFoundError, TaskUnknownError
from tasks.runtime import redeliveries
from tasks.runtime.admission import admit_raw
from tasks.runtime.broker import aside
from tasks.runtime.broker.envelope import open_body, read_body
from tasks.runtime.broker.transport import broker_client
from tasks.runtime.redaction import redact_arguments
from tasks.runtime.task import EmailTask
from tasks.storage import queued_tasks
from tasks.storage.dead_letters import NOBODY, Letter, Summary, drop_letter, mark_retried, open_arguments

# The codes of messages that were put aside; no failed task has them.
_ASIDE = (MessageUnreadableError.code, TaskUnknownError.code, MaybeSentError.code)
# The code of tasks queued in SQL that beat could not publish, and how many of them are listed.
NOT_PUBLISHED, _MAX_NOT_PUBLISHED = "not_published", 1000


def retry_letter(letter: Letter) -> str:
    """Queue the task again as it was, under its id; if it succeeds, the dead letter is cleared.

    Raises TaskUnknownError where this release does not know the task or does not take its arguments,
    CredentialUnreadableError where no key opens its arguments, and kombu.exceptions.OperationalError.
    """
    args, kwargs = open_arguments(letter)
    task = current_app.tasks.get(letter.task_name)
    if not isinstance(task, EmailTask):  # gone, or one of Celery's own
        raise TaskUnknownError(f"the task {letter.task_name}")
    try:
        task.check_arguments(args, kwargs)
    except (TypeError, ValueError) as error:
        raise TaskUnknownError(f"the task {letter.task_name}: {error}") from error
    # Forget its redeliveries, but remember that there is a dead letter to clear. The key is computed anew, because
    # earlier releases computed the key that is stored in the letter in another way.
    key = task.key(args, kwargs, letter.task_id)
    redeliveries.start_over(current_app, key, is_dead=True)
    task.apply_async(args, kwargs, task_id=letter.task_id, retry=False)
    mark_retried(letter)
    return letter.task_id


def forget_letter(letter: Letter) -> None:
    """Drop the dead letter, so that the same task may run again. Raises what `redeliveries.start_over` raises."""
    redeliveries.start_over(current_app, letter.task_key, is_dead=False)
    drop_letter(letter)


def is_aside(letter: Summary) -> bool:
    """Whether the dead letter stands for a message that was put aside, and not for a task that failed."""
    return letter.error_code in _ASIDE


def is_not_published(letter: Summary) -> bool:
    """Whether the dead letter stands for a task queued in SQL that beat could not publish."""
    return letter.error_code == NOT_PUBLISHED


def list_not_published() -> list[Summary]:
    """The tasks queued in SQL that beat could not publish, in the form of dead letters, the oldest first."""
    return [
        Summary(row.tenant_id, row.id, row.name, NOT_PUBLISHED, row.error, 1, row.queued_at, row.queued_at, None)
        for row in queued_tasks.list_queued_tasks(_MAX_NOT_PUBLISHED)
        if row.error
    ]


def retry_not_published(letter: Summary) -> str:
    """Have beat publish the task now, if it can. Returns the task's id. Raises NotFoundError."""
    if not queued_tasks.retry(letter.tenant_id, letter.id):
        raise NotFoundError(f"dead letter {letter.id}")
    return letter.id


def drop_not_published(letter: Summary) -> None:
    """Delete the task."""
    queued_tasks.drop(letter.tenant_id, letter.id)


def list_aside() -> list[Summary]:
    """The messages that were put aside, in the form of dead letters, the latest at the end."""
    with broker_client(current_app) as client:
        found = sorted(aside.notes(client), key=lambda item: item[1].at)
    return [
        Summary(NOBODY, aside.shown(tag), note.task_name or "?", note.code, note.error, 1, at, at, None)
        for tag, note in found
        for at in [_moment(note)]
    ]


def show_aside(shown_id: str) -> dict[str, Any]:
    """What may be shown of a message that was put aside, with redacted arguments. Raises NotFoundError."""
    note, message, queue = _find(shown_id)
    return {
        "id": shown_id,
        "queue": queue,
        **note.model_dump(),
        "at": _moment(note),
        "shown_arguments": shown_arguments(message),
    }


def retry_aside(shown_id: str) -> str:
    """Put the message on its queue again. Returns the task's id.

    Raises MessageUnreadableError and TaskUnknownError where this release would put it aside again, NotFoundError.
    """
    message = _find(shown_id)[1]
    admit_raw(current_app, message)
    with broker_client(current_app) as client:
        if not aside.give_back(client, aside.tag_of(shown_id)):
            raise NotFoundError(f"dead letter {shown_id}")
    task_id: str = message["headers"]["id"]
    return task_id


def drop_aside(shown_id: str) -> None:
    """Delete the message."""
    with broker_client(current_app) as client:
        aside.drop(client, aside.tag_of(shown_id))


def _find(shown_id: str) -> tuple[aside.Note, Any, Any]:
    with broker_client(current_app) as client:
        try:
            return aside.find(client, aside.tag_of(shown_id))
        except KeyError:
            raise NotFoundError(f"dead letter {shown_id}") from None


def _moment(note: aside.Note) -> datetime:
    return datetime.fromtimestamp(min(note.at, time.time()), UTC)


def shown_arguments(message: Any) -> dict[str, Any] | None:
    """The redacted arguments of a message; None where they cannot be read."""
    try:
        args, kwargs = open_body(read_body(message))
        task = current_app.tasks.get(message["headers"]["task"])
        shown_args, shown_kwargs = redact_arguments(task.run if task else lambda: None, args, kwargs)
    except Exception:  # a message may hold anything
        return None
    return {"args": shown_args, "kwargs": shown_kwargs}
