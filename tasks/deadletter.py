"""Retries and forgets dead letters, for the command line."""

from celery import current_app

from tasks import poison
from tasks.storage.dead_letters import Letter, drop_letter, mark_retried, open_arguments


def retry_letter(letter: Letter) -> str:
    """Queue the task again as it was, under its id; if it succeeds, the dead letter is cleared.

    Raises CredentialUnreadableError where no key opens its arguments, and kombu.exceptions.OperationalError.
    """
    args, kwargs = open_arguments(letter)
    # What was held against it is forgotten, except that there is a letter to clear.
    poison.forget(current_app, letter.task_key)
    poison.note_death(current_app, letter.task_key)
    current_app.tasks[letter.task_name].apply_async(args, kwargs, task_id=letter.task_id)
    mark_retried(letter)
    return letter.task_id


def forget_letter(letter: Letter) -> None:
    """Drop it, and let the same task run again as if it had never failed."""
    drop_letter(letter)
    poison.forget(current_app, letter.task_key)
