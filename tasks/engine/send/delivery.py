"""One try to send a message to all recipients who do not have it yet, and noting the server's answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.engine.connection_cache import lent_smtp
from tasks.engine.send.notes import LOOK_AGAIN_SECONDS, SENT, error_columns, note, release, unhappy
from tasks.engine.send.pauses import PASSING, try_later
from tasks.engine.send.recipient_states import after_answer, after_offer
from tasks.engine.send.sent_copy import wants_copy
from tasks.errors import (
    DeliveryFailedError,
    DeliveryInterruptedError,
    DeliveryUnderWayError,
    EmailError,
    LoginBusyError,
    LoginDelayedError,
    MailServerBusyError,
    MailServerUnavailableError,
    MessageRefusedError,
    PermanentError,
    SoftTimeLimitError,
    StorageUnavailableError,
    TokenEndpointUnavailableError,
    TooSlowError,
)
from tasks.mail.smtp.commands import SmtpConnection
from tasks.mail.smtp.session import Reply
from tasks.storage.accounts.rows import Account, require_sending
from tasks.storage.outbox import NOW, Outgoing, Recipient, change_outgoing, lock_outgoing
from tasks.storage.session import tenant_transaction
from tasks.storage.states import OutboxState, RecipientState


def attempt(account: Account, outgoing: Outgoing, raw: bytes) -> Outgoing:
    """Try once to send the message to all pending recipients."""
    try:
        require_sending(account)
        recipients = _transmit(account, outgoing, raw)
    except (DeliveryInterruptedError, DeliveryUnderWayError, StorageUnavailableError):
        raise
    except EmailError as error:
        return settle(account, outgoing, outgoing.recipients, error)
    except SoftTimeLimitError:
        # The time limit may strike at any point: the row says whether the end of the data may have been sent.
        with tenant_transaction(outgoing.tenant_id) as connection:
            current = lock_outgoing(connection, outgoing.tenant_id, outgoing.id)
        if current.state != OutboxState.SENDING or current.data_seconds is not None:
            raise
        return settle(account, outgoing, outgoing.recipients, TooSlowError())
    return settle(account, outgoing, recipients, None)


def _transmit(account: Account, outgoing: Outgoing, raw: bytes) -> Sequence[Recipient]:
    """The recipients after the server's answers."""
    pending = outgoing.addresses(RecipientState.PENDING)
    addresses = outgoing.addresses(RecipientState.PENDING, RecipientState.ACCEPTED)
    beyond_ascii = not (outgoing.sender + "".join(addresses)).isascii()
    utf8 = beyond_ascii or not raw.isascii()
    for fresh in (False, True):
        with lent_smtp(account, fresh=fresh) as smtp:
            try:
                offer = smtp.offer(outgoing.sender, pending, len(raw), utf8=utf8)
            except (MailServerUnavailableError, MailServerBusyError, MessageRefusedError) as error:
                # A server may end a kept connection after some messages or minutes: try again on a fresh connection.
                if fresh or smtp.is_usable or (isinstance(error, MessageRefusedError) and not smtp.is_kept):
                    raise
                continue
            if not fresh and smtp.is_kept and offer.may_be_the_connection:
                smtp.close()
                continue
            recipients = after_offer(outgoing.recipients, offer)
            if offer.is_open:
                recipients = after_answer(recipients, _complete(smtp, outgoing, recipients, raw))
            elif offer.data is not None:
                recipients = after_answer(recipients, offer.data)
            return recipients
    raise AssertionError("the second connection either answers or raises")


def _complete(smtp: SmtpConnection, outgoing: Outgoing, recipients: Sequence[Recipient], raw: bytes) -> Reply:
    """Send the content, note that the end of the data follows, send the end, and return the server's answer."""
    smtp.send_content(raw)
    try:
        _note_data(outgoing, recipients)
    except StorageUnavailableError:
        # The commit may have been done, and would say that the server may have the message. It has not: without the
        # end of the data it discards the message, and the next try begins again.
        smtp.abandon()
        note(outgoing, {"data_at": None, "recipients": outgoing.recipients})
        raise
    smtp.require_open()
    try:
        return smtp.end_data()
    except BaseException as error:
        note(outgoing, {"state": OutboxState.UNKNOWN, "attempts": 0, **error_columns(error)})
        if isinstance(error, EmailError):
            raise DeliveryInterruptedError(error.detail) from error
        raise


def _note_data(outgoing: Outgoing, recipients: Sequence[Recipient]) -> None:
    """Commit that the end of the data is about to be sent.

    Raises DeliveryUnderWayError where another run has the row.
    """
    with tenant_transaction(outgoing.tenant_id) as connection:
        noted = change_outgoing(
            connection,
            outgoing,
            {"data_at": NOW, "recipients": recipients},
            expected={"owner": outgoing.owner, "state": OutboxState.SENDING, "data_at": None},
        )
    if noted is None:
        raise DeliveryUnderWayError(LOOK_AGAIN_SECONDS)


def settle(
    account: Account, outgoing: Outgoing, recipients: Sequence[Recipient], error: EmailError | None
) -> Outgoing:
    """Note the outcome of a try, and raise unless the message was accepted.

    `error` is the reason if the try ended early.
    """
    accepted = [recipient for recipient in recipients if recipient.state == RecipientState.ACCEPTED]
    is_new = len(accepted) > len(outgoing.addresses(RecipientState.ACCEPTED))
    attempts = 0 if is_new else outgoing.attempts
    if isinstance(error, TokenEndpointUnavailableError | LoginDelayedError | LoginBusyError):
        attempts -= 1  # the mail server was not asked to take the message, so this was no try
    pending = [recipient for recipient in recipients if recipient.state == RecipientState.PENDING]
    error = error or unhappy(recipients)
    changes: dict[str, Any] = {"data_at": None, "attempts": attempts, **error_columns(error)}
    if is_new and outgoing.accepted_at is None:
        changes["accepted_at"] = NOW
    if pending and isinstance(error, PASSING):
        try_later(outgoing, {**changes, "state": OutboxState.QUEUED, "recipients": recipients}, error)
    refused = RecipientState.REFUSED
    given_up = [r._replace(state=refused, reply=r.reply or str(error)) if r in pending else r for r in recipients]
    if accepted:
        noted = note(outgoing, {**changes, **after_acceptance(account), "recipients": given_up})
        if outgoing.last_error_code is not None:
            release(outgoing)
        return noted
    note(outgoing, {**changes, "state": OutboxState.FAILED, "recipients": given_up})
    if isinstance(error, PermanentError) and not isinstance(error, PASSING):
        raise error
    raise DeliveryFailedError(str(error)) from error


def after_acceptance(account: Account) -> Mapping[str, Any]:
    """The changes for an accepted message.

    From now on `asked_at` is the time from which the age of the copy counts.
    """
    return {"state": OutboxState.ACCEPTED, "attempts": 0, "asked_at": NOW} if wants_copy(account) else SENT
