"""What is done in the Sent folder for the outbox: a message whose answer was lost is looked for, a copy is filed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from tasks.engine.send.delivery import settle
from tasks.engine.send.notes import SENT, error_columns, no_copy, note, release, unhappy
from tasks.engine.send.outcome import after_answer
from tasks.engine.send.pauses import PASSING, pause_before, try_later
from tasks.engine.send.sent_copy import file_copy, has_copy, wants_copy
from tasks.errors import (
    DeliveryInterruptedError,
    DeliveryUnknownError,
    EmailError,
    LoginDelayedError,
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
    """Whether a message whose answer never came was sent: it was, if it is in the Sent folder.

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
    # A provider that files copies by itself may still be about to.
    if not wants_copy(account) and may_look_again:
        note(outgoing, {"attempts": attempts})
        raise DeliveryInterruptedError(f"{outgoing.message_id} is not in the Sent folder yet")
    _leave_to_a_person(outgoing)
    raise DeliveryUnknownError(f"{outgoing.message_id} is not in the Sent folder")


def _leave_to_a_person(outgoing: Outgoing) -> None:
    note(outgoing, {"next_try_at": None})


def file(account: Account, outgoing: Outgoing, raw: bytes) -> Outgoing:
    """See to the copy in the Sent folder, now or later. Without one the message is sent all the same."""
    try:
        with _at_the_mailbox(account):
            file_copy(account, outgoing, raw)
    except StorageUnavailableError:
        raise
    except EmailError as error:
        waits = isinstance(error, PASSING) and outgoing.asked_seconds < get_settings().send.max_age
        logger.warning(
            "no copy in the Sent folder%s: %s", " yet" if waits else "", error, extra={"outbox_id": outgoing.id}
        )
        return note(outgoing, {**(_copy_later(outgoing, error) if waits else SENT), **no_copy(error)})
    noted = note(outgoing, {**SENT, **error_columns(unhappy(outgoing.recipients))})
    if outgoing.attempts > 0:
        release(outgoing)
    return noted


def _copy_later(outgoing: Outgoing, error: EmailError) -> dict[str, Any]:
    """No run holds it until the next try, which is nobody's but its own: what followed the message has begun."""
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
    """What is done in the Sent folder: not while the mailbox is paused or off, or its next login is not due.

    A mail server that uses up the time of the task is counted like one that breaks off.
    """
    require_mailbox(account)
    try:
        yield
    except SoftTimeLimitExceeded as late:
        raise TooSlowError from late
