"""Sends a message exactly once, or leaves it to a person: the state machine of a row of outbox_message.

    sending   a run holds it (`owner`). Until `data_at` is set no server has the whole message, so if the run dies
              another one begins again. `data_at` is committed before the end of the data goes out (the dot of
              RFC 5321 section 4.1.1.4), and from there on nobody sends the message again.
    queued    the server is away or does not take it now, or not for all recipients: `pending` ones are tried again,
              those that were accepted never. As often as SMTP_RETRIES says, and within two minutes, the task itself
              comes back; then the message waits until `next_try_at`, when tasks/send.py queues a task for it.
    accepted  the server has it for at least one recipient; the copy in the Sent folder is still to be filed. While
              the mailbox cannot take it, the copy waits until `next_try_at` as a queued message does, for as long
              again as SMTP_MAX_AGE says; whoever asked for the message to be sent is told meanwhile that it is.
    sent      done, with a copy or with the reason why there is none. `raw` is forgotten; the row remains, so that its
              key finds it.
    failed    no recipient was accepted, for good or for as long as SMTP_MAX_AGE says. Asked for again by the same
              key it is tried again: nobody has it.
    unknown   the answer after the end of the data never came. The Sent folder is searched for the Message-ID, and
              with the message found there it is accepted. Otherwise it waits for a person (manage/outbox.py). While
              the mailbox cannot be reached it waits as a queued one does.

    (new) -> sending -> accepted -> sent      sending -> queued -> sending      sending -> failed -> sending
                     -> unknown -> accepted                             a person: unknown -> sent, unknown -> queued

What makes it idempotent: the row is found by its key, which a redelivered or retried task has too; a step is taken
only by the run that owns the row; and `data_at` is set at most once for one `sending`, by an UPDATE that fails for
all but the owner. A run that lost the row before that drops its connection, and the server forgets what it has. So no
clock and no lease decides whether a message is sent twice, only whether one waits too long.
"""

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Any, NoReturn

from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Connection

from tasks.engine.connection_cache import lent_smtp
from tasks.engine.send.draft import SendRequest, make_message
from tasks.engine.send.outcome import after_answer, after_offer
from tasks.engine.send.sent_copy import file_copy, has_copy, wants_copy
from tasks.errors import (
    CertificateInvalidError,
    DeliveryFailedError,
    DeliveryInterruptedError,
    DeliveryUnderWayError,
    DeliveryUnknownError,
    DeliveryWaitsError,
    EmailError,
    EncryptionUnavailableError,
    IdempotencyConflictError,
    LoginBusyError,
    LoginDelayedError,
    MailServerBusyError,
    MailServerUnavailableError,
    MessageRefusedError,
    NotFoundError,
    NotUnknownError,
    PermanentError,
    StorageUnavailableError,
    TokenEndpointUnavailableError,
    TooSlowError,
    TransientError,
    UnknownHostError,
)
from tasks.mail.smtp.commands import ANSWER_PATIENCE, SmtpConnection
from tasks.mail.smtp.session import Reply
from tasks.settings import get_settings
from tasks.storage.accounts.rows import Account, get_account, require_mailbox, require_sending
from tasks.storage.outbox import (
    NOW,
    In,
    Outgoing,
    Recipient,
    add_outgoing,
    change_outgoing,
    find_outgoing,
    lock_outgoing,
    read_raw,
)
from tasks.storage.session import tenant_transaction
from tasks.storage.waiting import others_wait, release_waiting

logger = logging.getLogger(__name__)

# What a run may need from setting `data_at` to the last answer, beyond the wait for that answer.
_MARGIN_SECONDS = 5
# A message that another task is sending is looked at again this often.
_LOOK_AGAIN_SECONDS = 5
# What the server said must not be lost to a database that restarts at that moment.
_NOTE_SECONDS = 20

# A pause is as long as the message has been tried for, within these limits, in seconds. What is tried for longer than
# the time of quick tries, or is to be asked for later than that, waits in the outbox.
_FIRST_PAUSE, _FIRST_LONG_PAUSE, _LONGEST_PAUSE = 5, 60, 3600
_QUICK_SECONDS = 120
# Of each pause at least this share, so that many do not come back at once.
_LEAST_JITTER = 0.5
# No server refused the message. These are mended by others, in time: names and certificates, too.
_PASSING = (TransientError, UnknownHostError, CertificateInvalidError, EncryptionUnavailableError)
_SENT: Mapping[str, Any] = {"state": "sent", "raw": None}


def send(request: SendRequest, key: str, run: str, task: Mapping[str, Any] | None = None) -> Outgoing:
    """Send the message, or bring what earlier runs left of it to its end. `run` is `task id:` and a name of its own;
    `task` is what a task that is queued for it later goes on as (options of `apply_async`).

    Raises TransientError subclasses for what is to be tried again (of them DeliveryWaitsError where that is not for
    the caller to see to), PermanentError subclasses for what is not.
    """
    return _proceed(*_enter(request, key, run, task))


def resume(account: Account, outbox_id: str, run: str) -> Outgoing:
    """Bring a message that is in the outbox to its end now, as a person wants it. Raises what `send` raises."""
    with tenant_transaction(account.tenant_id, durable=False) as connection:
        claimed = _claim(connection, lock_outgoing(connection, account.tenant_id, outbox_id), run)
    return _proceed(account, claimed, None)


def resume_waiting(tenant_id: str, user_id: str, outbox_id: str, run: str) -> Outgoing | None:
    """Try a message whose time has come; None where it has been given up meanwhile.

    Raises what `send` raises, and NotFoundError where the account was removed.
    """
    with tenant_transaction(tenant_id, durable=False) as connection:
        found = lock_outgoing(connection, tenant_id, outbox_id)
        try:
            account = get_account(connection, tenant_id, user_id, found.email_client_id)
        except NotFoundError:  # another user's: said as of one that is not there
            raise NotFoundError(f"outbox message {outbox_id}") from None
        if found.state == "failed":
            return None
        claimed = found if found.waits else _claim(connection, found, run)
    return _proceed(account, claimed, None)


def give_up(tenant_id: str, outbox_id: str, error: EmailError) -> None:
    """A message that no run brings to an end, as each dies of it, is tried no more; `outbox retry` tries it again."""
    with tenant_transaction(tenant_id) as connection:
        _give_up(connection, lock_outgoing(connection, tenant_id, outbox_id), error)


def give_up_key(tenant_id: str, account_id: str, key: str, error: EmailError) -> None:
    """The same of the message with that key, if there is one."""
    with tenant_transaction(tenant_id) as connection:
        if found := find_outgoing(connection, tenant_id, account_id, key):
            _give_up(connection, found, error)


def _give_up(connection: Connection, found: Outgoing, error: EmailError) -> None:
    if found.state in ("sent", "failed"):
        return
    changes: dict[str, Any] = {"next_try_at": None, **_error(error)}
    if found.state in ("queued", "sending"):
        changes["state"] = "failed" if found.data_seconds is None else "unknown"
    elif found.state == "accepted":
        changes |= {**_SENT, **_no_copy(error)}
    change_outgoing(connection, found, changes)


def decide(account: Account, outbox_id: str, *, was_sent: bool) -> None:
    """A person's word on a message that is unknown: it counts as sent, or it is sent again when it is resumed.

    Raises NotUnknownError for any other message.
    """
    with tenant_transaction(account.tenant_id) as connection:
        outgoing = lock_outgoing(connection, account.tenant_id, outbox_id)
        if outgoing.state != "unknown":
            raise NotUnknownError(f"it is {outgoing.state}")
        reply = Reply(250, "as a person says") if was_sent else Reply(450, "not sent, as a person says")
        recipients = after_answer(outgoing.recipients, reply)
        changes: dict[str, Any] = {"recipients": recipients, "attempts": 0, "data_at": None, "owner": None}
        changes |= {"asked_at": NOW, "next_try_at": NOW, "dispatched_at": NOW}
        if was_sent:
            changes["accepted_at"] = NOW
        is_over = all(recipient.state != "pending" for recipient in recipients)
        changes |= _after_acceptance(account) if is_over else {"state": "queued"}
        change_outgoing(connection, outgoing, changes)


def _proceed(account: Account, outgoing: Outgoing, raw: bytes | None) -> Outgoing:
    if outgoing.waits and outgoing.state == "accepted":
        return outgoing
    if outgoing.waits:
        _raise_that_it_waits(outgoing)
    if outgoing.state == "unknown":
        outgoing = _find_out(account, outgoing)
    if outgoing.state == "sending":
        outgoing = _attempt(account, outgoing, raw or read_raw(outgoing.tenant_id, outgoing.id))
    if outgoing.state == "accepted":
        outgoing = _file(account, outgoing, raw or read_raw(outgoing.tenant_id, outgoing.id))
    return outgoing


def _enter(
    request: SendRequest, key: str, run: str, task: Mapping[str, Any] | None
) -> tuple[Account, Outgoing, bytes | None]:
    """The message as this run holds it: made now, or found and claimed.

    Not durable by itself: what a crash of PostgreSQL takes was on no server yet, and the next commit that matters,
    that of `data_at`, makes this one durable too.
    """
    with tenant_transaction(request.tenant_id, durable=False) as connection:
        account = get_account(connection, request.tenant_id, request.user_id, request.email_client_id)
        found = find_outgoing(connection, request.tenant_id, account.id, key)
        if found is None:
            new = make_message(connection, account, request, key, run)._replace(task=task)
            if outgoing := add_outgoing(connection, request.tenant_id, new):
                return account, outgoing, new.raw
            found = find_outgoing(connection, request.tenant_id, account.id, key)
            assert found is not None
        if not request.asks_for(found):
            raise IdempotencyConflictError(key.partition(":")[2])
        if found.waits and found.state == "accepted":
            return account, found, None
        if found.waits:
            # Whoever asked last is told what becomes of it.
            waiting = change_outgoing(connection, found, {"task": task})
            assert waiting is not None
            return account, waiting, None
        return account, _claim(connection, found, run, task), None


def _claim(connection: Connection, found: Outgoing, run: str, task: Mapping[str, Any] | None = None) -> Outgoing:
    """Take over the message, if nobody else is at it. Raises DeliveryUnderWayError."""
    if found.state == "sent":
        return found
    # A task that is lost with the broker is missed after a while.
    claim: dict[str, Any] = {"owner": run, "claimed_at": NOW, "next_try_at": NOW, "dispatched_at": NOW}
    if task is not None:
        claim["task"] = task
    if found.state == "sending" and found.data_seconds is not None:
        left = get_settings().send.timeout * ANSWER_PATIENCE + _MARGIN_SECONDS - found.data_seconds
        if left > 0:
            raise DeliveryUnderWayError(left)
        claim |= {"state": "unknown", "attempts": 0}
    elif found.state in ("sending", "accepted"):
        left = get_settings().worker.task_time_limit - found.claimed_seconds
        if left > 0 and found.owner and not _is_same_task(found.owner, run):
            raise DeliveryUnderWayError(min(left, _LOOK_AGAIN_SECONDS))
    if found.state in ("sending", "queued"):
        claim |= {"state": "sending", "attempts": found.attempts + 1} if "state" not in claim else {}
    elif found.state == "failed":
        again = [Recipient(recipient.address) for recipient in found.recipients]
        claim |= {"state": "sending", "attempts": 1, "recipients": again, "asked_at": NOW}
    claimed = change_outgoing(connection, found, claim)
    assert claimed is not None
    return claimed


def _is_same_task(owner: str, run: str) -> bool:
    return owner.rpartition(":")[0] == run.rpartition(":")[0]


def _attempt(account: Account, outgoing: Outgoing, raw: bytes) -> Outgoing:
    """One try to send it to all that are pending."""
    try:
        require_sending(account)
        recipients = _transmit(account, outgoing, raw)
    except (DeliveryInterruptedError, DeliveryUnderWayError, StorageUnavailableError):
        raise
    except EmailError as error:
        return _settle(account, outgoing, outgoing.recipients, error)
    except SoftTimeLimitExceeded:
        # Wherever it struck: the row says whether the end of the data may have gone out.
        with tenant_transaction(outgoing.tenant_id) as connection:
            current = lock_outgoing(connection, outgoing.tenant_id, outgoing.id)
        if current.state != "sending" or current.data_seconds is not None:
            raise
        return _settle(account, outgoing, outgoing.recipients, TooSlowError())
    return _settle(account, outgoing, recipients, None)


def _transmit(account: Account, outgoing: Outgoing, raw: bytes) -> Sequence[Recipient]:
    """The recipients after the server's answers."""
    pending = outgoing.addresses("pending")
    beyond_ascii = not (outgoing.sender + "".join(outgoing.addresses("pending", "accepted"))).isascii()
    utf8 = beyond_ascii or not raw.isascii()
    for fresh in (False, True):
        with lent_smtp(account, fresh=fresh) as smtp:
            try:
                offer = smtp.offer(outgoing.sender, pending, len(raw), utf8=utf8)
            except (MailServerUnavailableError, MailServerBusyError, MessageRefusedError) as error:
                # One that was open may have come to its end: so many messages, or so many minutes.
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
    """Send the content, note that its end follows, send that, and the answer."""
    smtp.send_content(raw)
    _note_data(outgoing, recipients)
    smtp.require_open()
    try:
        return smtp.end_data()
    except BaseException as error:
        _note(outgoing, {"state": "unknown", "attempts": 0, **_error(error)})
        if isinstance(error, EmailError):
            raise DeliveryInterruptedError(error.detail) from error
        raise


def _note_data(outgoing: Outgoing, recipients: Sequence[Recipient]) -> None:
    """Commit that the message is about to be complete. Raises DeliveryUnderWayError where another run took it."""
    with tenant_transaction(outgoing.tenant_id) as connection:
        noted = change_outgoing(
            connection,
            outgoing,
            {"data_at": NOW, "recipients": recipients},
            expected={"owner": outgoing.owner, "state": "sending", "data_at": None},
        )
    if noted is None:
        raise DeliveryUnderWayError(_LOOK_AGAIN_SECONDS)


def _settle(
    account: Account, outgoing: Outgoing, recipients: Sequence[Recipient], error: EmailError | None
) -> Outgoing:
    """Note how a try ended, and raise what is still to be done. `error` is why it ended early."""
    accepted = [recipient for recipient in recipients if recipient.state == "accepted"]
    is_new = len(accepted) > len(outgoing.addresses("accepted"))
    attempts = 0 if is_new else outgoing.attempts
    if isinstance(error, TokenEndpointUnavailableError | LoginDelayedError | LoginBusyError):
        attempts -= 1  # the mail server was not asked to take it, so it was no try
    pending = [recipient for recipient in recipients if recipient.state == "pending"]
    error = error or _unhappy(recipients)
    changes: dict[str, Any] = {"data_at": None, "attempts": attempts, **_error(error)}
    if is_new and outgoing.accepted_at is None:
        changes["accepted_at"] = NOW
    if pending and isinstance(error, _PASSING):
        _try_later(outgoing, {**changes, "state": "queued", "recipients": recipients}, error)
    given_up = [r._replace(state="refused", reply=r.reply or str(error)) if r in pending else r for r in recipients]
    if accepted:
        noted = _note(outgoing, {**changes, **_after_acceptance(account), "recipients": given_up})
        if outgoing.last_error_code is not None:
            _release(outgoing)
        return noted
    _note(outgoing, {**changes, "state": "failed", "recipients": given_up})
    if isinstance(error, PermanentError) and not isinstance(error, _PASSING):
        raise error
    raise DeliveryFailedError(str(error)) from error


def _unhappy(recipients: Sequence[Recipient]) -> EmailError | None:
    """What the server said of those who do not have the message."""
    unhappy = [recipient for recipient in recipients if recipient.state in ("pending", "refused")]
    if not unhappy:
        return None
    words = "; ".join(f"{recipient.address}: {recipient.reply}" for recipient in unhappy)
    return (MailServerBusyError if any(r.state == "pending" for r in unhappy) else MessageRefusedError)(words)


def _release(outgoing: Outgoing) -> None:
    """The server, or the mailbox, works again: what else waits for it is due. If that fails, each has its time."""
    try:
        release_waiting(outgoing)
    except StorageUnavailableError as error:
        logger.warning("what waits for the same server is not made due: %s", error)


def _try_later(outgoing: Outgoing, changes: dict[str, Any], error: EmailError) -> None:
    """Note when it is tried next, and raise why, unless it has been tried for as long as SMTP_MAX_AGE says.

    Raises DeliveryWaitsError where the message is to wait in the outbox, and else a TransientError whose
    `retry_after` is when the task is to come back.
    """
    limits, age = get_settings().send, outgoing.asked_seconds
    if age >= limits.max_age:
        return
    is_quick = changes["attempts"] <= limits.retries and max(age, _asked_for(error)) <= _QUICK_SECONDS
    if is_quick:
        with tenant_transaction(outgoing.tenant_id) as connection:
            is_quick = not others_wait(connection, outgoing)
    pause = _pause(age, error, is_quick=is_quick)
    noted = _note(outgoing, {**changes, "next_try_at": In(pause), "dispatched_at": NOW if is_quick else None})
    if age >= limits.delay_warning:
        logger.warning("outbox message %s is not sent for %.1f h: %s", outgoing.id, age / 3600, error)
    if not is_quick:
        _raise_that_it_waits(noted)
    passing = error if isinstance(error, TransientError) else MailServerUnavailableError(str(error))
    passing.retry_after = pause
    raise passing


def _pause(age: float, error: EmailError, *, is_quick: bool) -> float:
    """Seconds until the next try of what has been tried for `age` seconds."""
    pause = max(age, _FIRST_PAUSE if is_quick else _FIRST_LONG_PAUSE) * random.uniform(_LEAST_JITTER, 1)
    asked_for = _asked_for(error)
    if isinstance(error, LoginDelayedError) and asked_for:
        pause = asked_for  # it is tried as late as a password may be, and no later
    longest = get_settings().worker.retry_max_delay if is_quick else _LONGEST_PAUSE
    return min(max(pause, asked_for), longest)


def _asked_for(error: EmailError) -> float:
    """In how many seconds the server wants to be asked again; 0 where it does not say."""
    return (error.retry_after if isinstance(error, TransientError) else None) or 0


def _raise_that_it_waits(outgoing: Outgoing) -> NoReturn:
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


def _after_acceptance(account: Account) -> Mapping[str, Any]:
    """`asked_at` is of the copy from here on."""
    return {"state": "accepted", "attempts": 0, "asked_at": NOW} if wants_copy(account) else _SENT


def _find_out(account: Account, outgoing: Outgoing) -> Outgoing:
    """Whether a message whose answer never came was sent: it was, if it is in the Sent folder.

    Raises DeliveryInterruptedError to look again, and DeliveryUnknownError when it is for a person to decide.
    """
    attempts = outgoing.attempts + 1
    may_look_again = attempts <= get_settings().send.retries
    try:
        with _at_the_mailbox(account):
            is_there = has_copy(account, outgoing)
    except EmailError as error:
        if isinstance(error, _PASSING):
            was_asked = not isinstance(error, TokenEndpointUnavailableError | LoginDelayedError)
            counted = attempts if was_asked else outgoing.attempts
            _try_later(outgoing, {"attempts": counted, **_error(error)}, error)
        _leave_to_a_person(outgoing)
        raise DeliveryUnknownError(f"{outgoing.message_id}; the Sent folder cannot be searched: {error}") from error
    if is_there:
        reply = Reply(250, "found in the Sent folder")
        return _settle(account, outgoing, after_answer(outgoing.recipients, reply), None)
    # A provider that files copies by itself may still be about to.
    if not wants_copy(account) and may_look_again:
        _note(outgoing, {"attempts": attempts})
        raise DeliveryInterruptedError(f"{outgoing.message_id} is not in the Sent folder yet")
    _leave_to_a_person(outgoing)
    raise DeliveryUnknownError(f"{outgoing.message_id} is not in the Sent folder")


def _leave_to_a_person(outgoing: Outgoing) -> None:
    _note(outgoing, {"next_try_at": None})


def _file(account: Account, outgoing: Outgoing, raw: bytes) -> Outgoing:
    """See to the copy in the Sent folder, now or later. Without one the message is sent all the same."""
    try:
        with _at_the_mailbox(account):
            file_copy(account, outgoing, raw)
    except StorageUnavailableError:
        raise
    except EmailError as error:
        waits = isinstance(error, _PASSING) and outgoing.asked_seconds < get_settings().send.max_age
        logger.warning(
            "no copy in the Sent folder%s: %s", " yet" if waits else "", error, extra={"outbox_id": outgoing.id}
        )
        return _note(outgoing, {**(_copy_later(outgoing, error) if waits else _SENT), **_no_copy(error)})
    noted = _note(outgoing, {**_SENT, **_error(_unhappy(outgoing.recipients))})
    if outgoing.attempts > 0:
        _release(outgoing)
    return noted


def _copy_later(outgoing: Outgoing, error: EmailError) -> dict[str, Any]:
    """No run holds it until the next try, which is nobody's but its own: what followed the message has begun."""
    pause = _pause(outgoing.asked_seconds, error, is_quick=False)
    return {
        "attempts": outgoing.attempts + 1,
        "owner": None,
        "task": None,
        "next_try_at": In(pause),
        "dispatched_at": None,
    }


def _no_copy(error: EmailError) -> dict[str, Any]:
    return {**_error(error), "last_error": f"no copy in the Sent folder: {error}"}


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


def _note(outgoing: Outgoing, changes: Mapping[str, Any]) -> Outgoing:
    """Commit a step of the run that holds the message. Raises DeliveryUnderWayError where another run does now.

    A database that is away for a moment is waited for: what the server answered is not to be had again.
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
            raise DeliveryUnderWayError(_LOOK_AGAIN_SECONDS)
        return noted


def _error(error: BaseException | None) -> dict[str, Any]:
    if error is None:
        return {"last_error_code": None, "last_error": None}
    code = error.code if isinstance(error, EmailError) else "internal_error"
    return {"last_error_code": code, "last_error": str(error) or type(error).__name__}
