"""When a message that was not sent, or a copy that was not filed,
is tried next: soon by the same task, or later from the outbox."""

import logging
import random
from datetime import UTC
from typing import Any, NoReturn

from tasks.engine.send.notes import note
from tasks.errors import (
    CertificateInvalidError,
    DeliveryWaitsError,
    EmailError,
    EncryptionUnavailableError,
    LoginDelayedError,
    MailServerUnavailableError,
    TransientError,
    UnknownHostError,
)
from tasks.settings import get_settings
from tasks.storage.outbox import NOW, In, Outgoing
from tasks.storage.session import tenant_transaction
from tasks.storage.waiting import others_wait

logger = logging.getLogger(__name__)

# A pause is as long as the message has been tried for, within these limits, in seconds. A message that needs longer
# pauses than the quick tries have, or whose server asks for one, waits in the outbox.
_FIRST_PAUSE, _FIRST_LONG_PAUSE, _MAX_PAUSE_SECONDS = 5, 60, 3600
_QUICK_SECONDS = 120
# A pause is shortened at random, to this share at least, so that many messages are not tried at the same moment.
_MIN_JITTER = 0.5
# Errors with which no server refused the message, and which may pass. Names and certificates are mended by others.
PASSING = (TransientError, UnknownHostError, CertificateInvalidError, EncryptionUnavailableError)


def try_later(outgoing: Outgoing, changes: dict[str, Any], error: EmailError) -> None:
    """Note the time of the next try and raise the reason. Returns if the message has been tried for SMTP_MAX_AGE.

    Raises DeliveryWaitsError if the message is to wait in the outbox, else a TransientError whose `retry_after` says
    in how many seconds the task is to run again.
    """
    limits, age = get_settings().send, outgoing.asked_seconds
    if age >= limits.max_age:
        return
    is_quick = changes["attempts"] <= limits.retries and max(age, _asked_for(error)) <= _QUICK_SECONDS
    if is_quick:
        with tenant_transaction(outgoing.tenant_id) as connection:
            is_quick = not others_wait(connection, outgoing)
    pause = pause_before(age, error, is_quick=is_quick)
    noted = note(outgoing, {**changes, "next_try_at": In(pause), "dispatched_at": NOW if is_quick else None})
    if age >= limits.delay_warning:
        logger.warning("not sent for %.1f h: %s", age / 3600, error, extra={"outbox": outgoing.id})
    if not is_quick:
        raise_that_it_waits(noted)
    passing = error if isinstance(error, TransientError) else MailServerUnavailableError(str(error))
    passing.retry_after = pause
    raise passing


def pause_before(age: float, error: EmailError, *, is_quick: bool) -> float:
    """Seconds until the next try of a message or copy that has been tried for `age` seconds."""
    pause = max(age, _FIRST_PAUSE if is_quick else _FIRST_LONG_PAUSE) * random.uniform(_MIN_JITTER, 1)
    asked_for = _asked_for(error)
    if isinstance(error, LoginDelayedError) and asked_for:
        pause = asked_for  # the next login is tried when it is due, and no later
    longest = get_settings().worker.retry_max_delay if is_quick else _MAX_PAUSE_SECONDS
    return min(max(pause, asked_for), longest)


def _asked_for(error: EmailError) -> float:
    """In how many seconds the server wants to be asked again; 0 where it does not say."""
    return (error.retry_after if isinstance(error, TransientError) else None) or 0


def raise_that_it_waits(outgoing: Outgoing) -> NoReturn:
    assert outgoing.next_try_at is not None
    waiting = {
        "outbox_id": outgoing.id,
        "message_id": outgoing.message_id,
        "next_try_at": int(outgoing.next_try_at.timestamp() * 1000),
        "waiting_since": int(outgoing.asked_at.timestamp() * 1000),
        "error_code": outgoing.last_error_code,
        "error": outgoing.last_error,
    }
    next_try = f"{outgoing.next_try_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    raise DeliveryWaitsError(f"{outgoing.last_error}; the next try is at {next_try}", waiting)
