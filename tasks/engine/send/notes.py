"""Writes the steps of a run into a row of the outbox. Only the run that holds the row can commit a step."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.counting import count
from tasks.errors import (
    DeliveryUnderWayError,
    EmailError,
    MailServerBusyError,
    MessageRefusedError,
    StorageUnavailableError,
)
from tasks.storage.outbox import Outgoing, Recipient, change_outgoing
from tasks.storage.session import tenant_transaction
from tasks.storage.states import OutboxState, RecipientState
from tasks.storage.waiting import release_waiting

logger = logging.getLogger(__name__)

# How soon to look again at a message that another run is sending.
LOOK_AGAIN_SECONDS = 5
# How long to wait for a database that restarts or fails over, because the server's answer cannot be had again.
_NOTE_SECONDS = 60
SENT: Mapping[str, Any] = {"state": OutboxState.SENT, "raw": None}


def note(outgoing: Outgoing, changes: Mapping[str, Any]) -> Outgoing:
    """Commit a step of the run that holds the message. Raises DeliveryUnderWayError where another run holds it now.

    Waits for a database that is away for a moment, because the server's answer cannot be had again.
    """
    deadline = time.monotonic() + _NOTE_SECONDS
    while True:
        try:
            with tenant_transaction(outgoing.tenant_id) as connection:
                noted = change_outgoing(connection, outgoing, changes, expected={"owner": outgoing.owner})
        except StorageUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
            continue
        if noted is None:
            raise DeliveryUnderWayError(LOOK_AGAIN_SECONDS)
        if state := changes.get("state"):
            count("outbox", state)
        return noted


def error_columns(error: BaseException | None) -> dict[str, Any]:
    if error is None:
        return {"last_error_code": None, "last_error": None}
    code = error.code if isinstance(error, EmailError) else "internal_error"
    return {"last_error_code": code, "last_error": str(error) or type(error).__name__}


def no_copy(error: EmailError) -> dict[str, Any]:
    return {**error_columns(error), "last_error": f"no copy in the Sent folder: {error}"}


def unhappy(recipients: Sequence[Recipient]) -> EmailError | None:
    """The server's answer about recipients who do not have the message, as an error; None if all have it."""
    unhappy = [r for r in recipients if r.state in (RecipientState.PENDING, RecipientState.REFUSED)]
    if not unhappy:
        return None
    words = "; ".join(f"{recipient.address}: {recipient.reply}" for recipient in unhappy)
    is_pending = any(recipient.state == RecipientState.PENDING for recipient in unhappy)
    return (MailServerBusyError if is_pending else MessageRefusedError)(words)


def release(outgoing: Outgoing) -> None:
    """Make all other mail (or copies) due that waits for the same server (or mailbox), because it works again. If
    this fails, each message is tried at its own time."""
    try:
        release_waiting(outgoing)
    except StorageUnavailableError as error:
        logger.warning("what waits for the same server is not made due: %s", error)
