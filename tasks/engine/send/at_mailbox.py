"""Work in the Sent folder for the outbox: looks for a message when the server's answer was lost, and files copies."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.engine.send.delivery import settle
from tasks.engine.send.notes import SENT, error_columns, no_copy, note, release, unhappy
from tasks.engine.send.pauses import PASSING, pause_before, try_later
from tasks.engine.send.recipient_states import after_answer
from tasks.engine.send.sent_copy import file_copy, has_copy, wants_copy
from tasks.errors import (
    DeliveryInterruptedError,
    DeliveryUnknownError,
    EmailError,
    LoginDelayedError,
    SoftTimeLimitError,
    StorageUnavailableError,
    TokenEndpointUnavailableError,
    TooSlowError,
)
from tasks.mail.smtp.session import Reply
from tasks.settings import get_settings
from tasks.storage.accounts.rows import Account, require_mailbox
from tasks.storage.outbox import In, Outgoing

logger = logging.getLogger(__name__)


def find_out(account: Account, outgoing: Outgoing) -> Outgoing:
    """Find out whether a message was sent although the server's
    answer never came: it was, if it is in the Sent folder.

    Raises DeliveryInterruptedError to look again, and DeliveryUnknownError when it is for a person to decide.
    """
    attempts = outgoing.attempts + 1
    may_look_again = attempts <= get_settings().send.retries
    try:
        with _at_the_mailbox(account):
            is_there = has_copy(account, outgoing)
    except EmailError as error:
        if isinstance(error, PASSING):
            was_asked = not isinstance(error, TokenEndpointUnavailableError | LoginDelayedError)
            counted = attempts if was_asked else outgoing.attempts
            try_later(outgoing, {"attempts": counted, **error_columns(error)}, error)
        _leave_to_a_person(outgoing)
        raise DeliveryUnknownError(f"{outgoing.message_id}; the Sent folder cannot be searched: {error}") from error
    if is_there:
        reply = Reply(250, "found in the Sent folder")
        return settle(account, outgoing, after_answer(outgoing.recipients, reply), None)
    # A provider that files copies by itself may not have filed this copy yet.
    if not wants_copy(account) and may_look_again:
        note(outgoing, {"attempts": attempts})
        raise DeliveryInterruptedError(f"{outgoing.message_id} is not in the Sent folder yet")
    _leave_to_a_person(outgoing)
    raise DeliveryUnknownError(f"{outgoing.message_id} is not in the Sent folder")


def _leave_to_a_person(outgoing: Outgoing) -> None:
    note(outgoing, {"next_try_at": None})


def file(account: Account, outgoing: Outgoing, raw: bytes) -> Outgoing:
    """File the copy in the Sent folder, now or later. The message counts as sent even if there is no copy."""
    try:
        with _at_the_mailbox(account):
            file_copy(account, outgoing, raw)
    except StorageUnavailableError:
        raise
    except EmailError as error:
        waits = isinstance(error, PASSING) and outgoing.asked_seconds < get_settings().send.max_age
        logger.warning(
            "no copy in the Sent folder%s: %s", " yet" if waits else "", error, extra={"outbox": outgoing.id}
        )
        return note(outgoing, {**(_copy_later(outgoing, error) if waits else SENT), **no_copy(error)})
    noted = note(outgoing, {**SENT, **error_columns(unhappy(outgoing.recipients))})
    if outgoing.attempts > 0:
        release(outgoing)
    return noted


def _copy_later(outgoing: Outgoing, error: EmailError) -> dict[str, Any]:
    """The changes that make the copy wait: no run holds the row until the next try. The next try is a task of its
    own, with no tasks to follow it, as the tasks that followed the message have begun."""
    pause = pause_before(outgoing.asked_seconds, error, is_quick=False)
    return {
        "attempts": outgoing.attempts + 1,
        "owner": None,
        "task": None,
        "next_try_at": In(pause),
        "dispatched_at": None,
    }


@contextmanager
def _at_the_mailbox(account: Account) -> Iterator[None]:
    """For work in the Sent folder.

    Raises without connecting while the mailbox is paused or switched off, or its next login is not due.

    A mail server that uses up the task's time counts as a server that broke the connection.
    """
    require_mailbox(account)
    try:
        yield
    except SoftTimeLimitError as late:
        raise TooSlowError from late
