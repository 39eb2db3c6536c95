"""Sends a message exactly once, or leaves it to a person: the state machine of a row of outbox_message.

    sending   a run holds the row (`owner`). Until `data_at` is set no server has the whole message, so if the run
              dies, another run begins again. `data_at` is committed before the end of the data is sent (the dot of
              RFC 5321 section 4.1.1.4); from then on nobody sends the message again.
    queued    the server is away, or does not take the message now, or not for all recipients. Recipients that are
              `pending` are tried again, `accepted` recipients never. The task itself runs again, at most
              SMTP_RETRIES times and within two minutes. Then the message waits in the outbox until `next_try_at`,
              when tasks/send.py queues a task for it.
    accepted  the server has the message for at least one recipient, and the Sent copy is still to be filed. While the
              mailbox cannot take the copy, the copy waits until `next_try_at` like a queued message, for another
              SMTP_MAX_AGE. The caller is told at once that the message is sent.
    sent      done, with a Sent copy or with the reason why there is none. `raw` is deleted; the row stays, so that a
              second call with the same key finds the message.
    failed    no recipient was accepted: all were refused for good, or for as long as SMTP_MAX_AGE says. Nobody has
              the message, so another call with the same key tries the message again.
    unknown   the answer after the end of the data never came. The Sent folder is searched for the Message-ID; a
              message that is found there is accepted, any other waits for a person (manage/outbox.py). While the
              mailbox cannot be reached, the search waits like a queued message.

    A row that no run holds and that has `data_at` is in doubt, too: the database was restored, and the message may
    have been sent in the time that was lost (decision 0050). It becomes unknown before anything else is done with it.

    (new) -> sending -> accepted -> sent      sending -> queued -> sending      sending -> failed -> sending
                     -> unknown -> accepted                             a person: unknown -> sent, unknown -> queued

What makes sending idempotent: the row is found by its key, which a redelivered or retried task
has too; a step is taken only by the run that owns the row; and `data_at` is set at most once for
each `sending`, by an UPDATE that fails for all but the owner. A run that loses the row before it
sets `data_at` drops its connection, and the server discards the unfinished message. So no clock
and no lease decides whether a message is sent twice; they only decide how long a message waits.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from tasks.engine.send.at_mailbox import file, find_out
from tasks.engine.send.delivery import after_acceptance, attempt
from tasks.engine.send.draft import SendRequest, make_message
from tasks.engine.send.notes import LOOK_AGAIN_SECONDS, SENT, error_columns, no_copy
from tasks.engine.send.pauses import raise_that_it_waits
from tasks.engine.send.recipient_states import after_answer, may_have_been_sent
from tasks.errors import (
    DeliveryUnderWayError,
    EmailError,
    IdempotencyConflictError,
    MaybeSentError,
    NotFoundError,
    NotUnknownError,
)
from tasks.mail.smtp.commands import ANSWER_PATIENCE
from tasks.mail.smtp.session import Reply
from tasks.settings import get_settings
from tasks.storage.accounts.rows import Account, get_account
from tasks.storage.outbox import (
    NOW,
    Outgoing,
    Recipient,
    add_outgoing,
    change_outgoing,
    find_outgoing,
    lock_outgoing,
    read_raw,
)
from tasks.storage.session import tenant_transaction
from tasks.storage.states import OutboxState, RecipientState

# Seconds that a run may need after setting `data_at`, besides the wait for the server's answer.
_MARGIN_SECONDS = 5


def send(request: SendRequest, key: str, owner: str, task: Mapping[str, Any] | None = None) -> Outgoing:
    """Send the message, or finish what earlier runs began.

    `owner` names the run that sends: the task's id, a colon, and a unique name. `task` are the options of
    `apply_async` with which a later task for this message is queued.

    Raises TransientError subclasses if the caller is to try again, except DeliveryWaitsError: the message then waits
    in the outbox, and beat queues its next try. Raises PermanentError subclasses if the message is not tried again.
    """
    return _proceed(*_enter(request, key, owner, task))


def resume(account: Account, outbox_id: str, owner: str) -> Outgoing:
    """Try a message of the outbox now, because a person asks for that. Raises what `send` raises."""
    with tenant_transaction(account.tenant_id, durable=False) as connection:
        claimed = _claim(connection, lock_outgoing(connection, account.tenant_id, outbox_id), owner)
    return _proceed(account, claimed, None)


def resume_waiting(tenant_id: str, user_id: str, outbox_id: str, owner: str) -> Outgoing | None:
    """Try a message whose next try is due. None where the message has failed meanwhile.

    Raises what `send` raises, and NotFoundError where the account was removed.
    """
    with tenant_transaction(tenant_id, durable=False) as connection:
        found = lock_outgoing(connection, tenant_id, outbox_id)
        try:
            account = get_account(connection, tenant_id, user_id, found.email_client_id)
        except NotFoundError:  # a message of another user: the same error as for an unknown id
            raise NotFoundError(f"outbox message {outbox_id}") from None
        if found.state == OutboxState.FAILED:
            return None
        claimed = found if found.waits else _claim(connection, found, owner)
    return _proceed(account, claimed, None)


def give_up(tenant_id: str, outbox_id: str, error: EmailError) -> None:
    """Stop trying a message that is poisoned (each run dies of it). `outbox retry` tries it again."""
    with tenant_transaction(tenant_id) as connection:
        _give_up(connection, lock_outgoing(connection, tenant_id, outbox_id), error)


def give_up_key(tenant_id: str, account_id: str, key: str, error: EmailError) -> None:
    """Stop trying the message with this key, if there is such a message."""
    with tenant_transaction(tenant_id) as connection:
        if found := find_outgoing(connection, tenant_id, account_id, key):
            _give_up(connection, found, error)


def _give_up(connection: Connection, found: Outgoing, error: EmailError) -> None:
    if found.state in (OutboxState.SENT, OutboxState.FAILED):
        return
    changes: dict[str, Any] = {"next_try_at": None, **error_columns(error)}
    if found.state in (OutboxState.QUEUED, OutboxState.SENDING):
        changes["state"] = OutboxState.FAILED if found.data_seconds is None else OutboxState.UNKNOWN
    elif found.state == OutboxState.ACCEPTED:
        changes |= {**SENT, **no_copy(error)}
    change_outgoing(connection, found, changes)


def decide(account: Account, outbox_id: str, *, was_sent: bool) -> None:
    """Store a person's decision about an `unknown` message: it counts as sent, or is sent again by `resume`.

    Raises NotUnknownError for any other message.
    """
    with tenant_transaction(account.tenant_id) as connection:
        outgoing = lock_outgoing(connection, account.tenant_id, outbox_id)
        if outgoing.state != OutboxState.UNKNOWN:
            raise NotUnknownError(f"it is {outgoing.state}")
        reply = Reply(250, "as a person says") if was_sent else Reply(450, "not sent, as a person says")
        recipients = after_answer(outgoing.recipients, reply)
        changes: dict[str, Any] = {"recipients": recipients, "attempts": 0, "data_at": None, "owner": None}
        changes |= {"asked_at": NOW, "next_try_at": NOW, "dispatched_at": NOW}
        if was_sent:
            changes["accepted_at"] = NOW
        is_over = all(recipient.state != RecipientState.PENDING for recipient in recipients)
        changes |= after_acceptance(account) if is_over else {"state": OutboxState.QUEUED}
        change_outgoing(connection, outgoing, changes)


def _proceed(account: Account, outgoing: Outgoing, raw: bytes | None) -> Outgoing:
    if outgoing.waits and outgoing.state == OutboxState.ACCEPTED:
        return outgoing
    if outgoing.waits:
        raise_that_it_waits(outgoing)
    if outgoing.state == OutboxState.UNKNOWN:
        outgoing = find_out(account, outgoing)
    if outgoing.state == OutboxState.SENDING:
        outgoing = attempt(account, outgoing, raw or read_raw(outgoing.tenant_id, outgoing.id))
    if outgoing.state == OutboxState.ACCEPTED:
        outgoing = file(account, outgoing, raw or read_raw(outgoing.tenant_id, outgoing.id))
    return outgoing


def _enter(
    request: SendRequest, key: str, owner: str, task: Mapping[str, Any] | None
) -> tuple[Account, Outgoing, bytes | None]:
    """The message in the outbox, held by this run: either made now, or found and claimed.

    This commit does not wait for the disk. If PostgreSQL crashes and loses it, no server has the message yet; and the
    commit of `data_at`, which comes before any server has it, makes this commit durable too.
    """
    with tenant_transaction(request.tenant_id, durable=False) as connection:
        account = get_account(connection, request.tenant_id, request.user_id, request.email_client_id)
        found = find_outgoing(connection, request.tenant_id, account.id, key)
        if found is None:
            new = make_message(connection, account, request, key, owner)._replace(task=task)
            if outgoing := add_outgoing(connection, request.tenant_id, new):
                return account, outgoing, new.raw
            found = find_outgoing(connection, request.tenant_id, account.id, key)
            assert found is not None
        if not request.asks_for(found):
            raise IdempotencyConflictError(key.partition(":")[2])
        if found.waits and found.state == OutboxState.ACCEPTED:
            return account, found, None
        if found.waits:
            # The task that asked last gets the result.
            waiting = change_outgoing(connection, found, {"task": task})
            assert waiting is not None
            return account, waiting, None
        return account, _claim(connection, found, owner, task), None


def _claim(connection: Connection, found: Outgoing, owner: str, task: Mapping[str, Any] | None = None) -> Outgoing:
    """Take over the message for this run. Raises DeliveryUnderWayError while another run holds it."""
    if found.state == OutboxState.SENT:
        return found
    # `dispatched_at` lets queue_waiting_mail notice a task that was lost with the broker.
    claim: dict[str, Any] = {"owner": owner, "claimed_at": NOW, "next_try_at": NOW, "dispatched_at": NOW}
    if task is not None:
        claim["task"] = task
    if found.state == OutboxState.SENDING and found.data_seconds is not None:
        left = get_settings().send.timeout * ANSWER_PATIENCE + _MARGIN_SECONDS - found.data_seconds
        if left > 0:
            raise DeliveryUnderWayError(left)
        claim |= {"state": OutboxState.UNKNOWN, "attempts": 0}
    elif found.state in (OutboxState.QUEUED, OutboxState.FAILED) and found.data_seconds is not None:
        in_doubt = may_have_been_sent(found.recipients)
        claim |= {"state": OutboxState.UNKNOWN, "attempts": 0, "recipients": in_doubt, "asked_at": NOW}
        claim |= error_columns(MaybeSentError())
    elif found.state in (OutboxState.SENDING, OutboxState.ACCEPTED):
        left = get_settings().worker.task_time_limit - found.claimed_seconds
        if left > 0 and found.owner and not _is_same_task(found.owner, owner):
            raise DeliveryUnderWayError(min(left, LOOK_AGAIN_SECONDS))
    if found.state in (OutboxState.SENDING, OutboxState.QUEUED):
        claim |= {"state": OutboxState.SENDING, "attempts": found.attempts + 1} if "state" not in claim else {}
    elif found.state == OutboxState.FAILED and "state" not in claim:
        again = [Recipient(recipient.address) for recipient in found.recipients]
        claim |= {"state": OutboxState.SENDING, "attempts": 1, "recipients": again, "asked_at": NOW}
    claimed = change_outgoing(connection, found, claim)
    assert claimed is not None
    return claimed


def _is_same_task(first_owner: str, second_owner: str) -> bool:
    return first_owner.rpartition(":")[0] == second_owner.rpartition(":")[0]
