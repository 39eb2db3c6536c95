"""send_email: sends a message once. The work, and its state machine, are in tasks/engine/send/outbox.py.

A message whose server is away waits in its row of the outbox, not as a task in a worker or in Redis. When the next
try of the message is due, queue_waiting_mail, which beat runs, queues send_waiting for it.
"""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from celery import shared_task
from celery.exceptions import Ignore
from kombu.exceptions import OperationalError
from uuid_utils import uuid4

from tasks.engine.send.draft import SendRequest
from tasks.engine.send.outbox import give_up, give_up_key, resume_waiting, send
from tasks.errors import (
    DeliveryInterruptedError,
    DeliveryUnderWayError,
    DeliveryWaitsError,
    PoisonedTaskError,
    SoftTimeLimitError,
    TransientError,
)
from tasks.registry import QUEUE_WAITING_MAIL, SEND_EMAIL, SEND_WAITING
from tasks.runtime.broker.transport import broker_client
from tasks.runtime.clocks import note_database
from tasks.runtime.publish import publish_many
from tasks.runtime.task import EmailTask
from tasks.settings import get_settings
from tasks.storage import dead_letters
from tasks.storage.accounts.leases import owner_of
from tasks.storage.outbox import Outgoing
from tasks.storage.session import database_now
from tasks.storage.states import RecipientState
from tasks.storage.waiting import Due, claim_waiting, unclaim_waiting

logger = logging.getLogger(__name__)

# How many messages whose next try is due are queued at a time, at most.
_MAX_AT_ONCE = 5000
# A task of waiting mail that has not begun after _LOST_AFTER visibility timeouts counts as lost (Redis was emptied,
# or lost its latest data), and its message is queued again.
_LOST_AFTER, _MAX_LOST_SECONDS = 2, 30 * 24 * 3600
_IDS = {"task_id", "root_id", "parent_id"}

# How often the task may run again. The tries of a message are counted in its row instead (SMTP_RETRIES), so that a
# killed worker does not lose the count.
_WAITS = 1000


class SendTask(EmailTask):
    """A task whose message in the outbox fails when the task is
    poisoned, because no task would try the message any more."""

    abstract = True

    def quarantined(self, error: PoisonedTaskError, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(self.run).bind(*args, **kwargs).arguments
        if outbox_id := given.get("outbox_id"):
            give_up(given["tenant_id"], outbox_id, error)
        else:
            key = outbox_key(given.get("idempotency_key"), self.request.id)
            give_up_key(given["tenant_id"], given["email_client_id"], key, error)


@shared_task(bind=True, base=SendTask, name=SEND_EMAIL, max_retries=3, default_retry_delay=5, is_unique_per_call=True)
def send_email(
    self: Any,
    email_client_id: str,
    tenant_id: str,
    user_id: str,
    to: str | Sequence[str],
    cc: str | Sequence[str] | None = None,
    bcc: str | Sequence[str] | None = None,
    subject: str = "",
    body_text: str = "",
    body_html: str | None = None,
    attachment_ids: Sequence[str] | None = None,
    idempotency_key: str | None = None,
) -> dict[str, Any]:
    """Send a message from an account, once.

    Recipients are lists, or strings with commas, of `a@b` or `Name <a@b>`.
    `attachment_ids` are ids of stored attachments; attachments that the HTML shows
    by `cid:` go inline. Two calls with the same `idempotency_key` send one message.

    Returns `status` (success; partial where some recipients were refused), message_id, sent_timestamp (ms),
    recipients_sent (how many), recipients_refused (the server's words by address) and outbox_id.

    While the mail server is away or does not take the message now, the state of the task is RETRY, then WAITING. The
    final result is stored under the id of this task, and only then do the tasks that follow it (`link`, a chain) run.

    Raises PermanentError subclasses, after which nobody has the message. The exception is DeliveryUnknownError:
    somebody may have the message, and a person decides.
    """
    request = SendRequest(
        email_client_id, tenant_id, user_id, to, cc, bcc, subject, body_text, body_html, attachment_ids
    )
    task_id = self.request.id or owner_of("local")
    key = outbox_key(idempotency_key, task_id)
    return _sent(self, lambda: send(request, key, owner_of(task_id), self.followers()))


@shared_task(bind=True, base=SendTask, name=SEND_WAITING, max_retries=3, default_retry_delay=5)
def send_waiting(self: Any, outbox_id: str, tenant_id: str, user_id: str) -> dict[str, Any]:
    """Try a message that waits in the outbox and whose next try is due.

    Returns and raises what `send_email` does, and NotFoundError where the account was removed meanwhile.
    """
    owner = owner_of(self.request.id or "local")
    result = _sent(self, lambda: resume_waiting(tenant_id, user_id, outbox_id, owner))
    if self.request.id:
        # The message may have failed as another task before and was asked for again: clear that task's dead letter.
        dead_letters.clear(tenant_id, "", self.request.id)
    return result


@shared_task(bind=True, base=EmailTask, name=QUEUE_WAITING_MAIL, max_retries=0)
def queue_waiting_mail(self: Any) -> dict[str, Any]:
    """Queue `send_waiting` for each message of all tenants whose next try is due. Beat runs it.

    Returns `status` (success; partial where the broker did not take all tasks: the next run queues the rest) and
    messages (how many were queued).
    """
    lost_seconds = min(_LOST_AFTER * get_settings().worker.visibility_timeout, _MAX_LOST_SECONDS)
    due = sorted(claim_waiting(_MAX_AT_ONCE, lost_seconds), key=_is_followed)
    plain = [one for one in due if not _is_followed(one)]
    queued = 0
    try:
        ids = [str((one.task or {}).get("task_id") or uuid4()) for one in plain]
        publish_many(send_waiting, [one[1::-1] + one[2:3] for one in plain], ids=ids)
        queued = len(plain)
        for one in due[len(plain) :]:
            send_waiting.apply_async((one.outbox_id, one.tenant_id, one.user_id), **(one.task or {}))
            queued += 1
    except OperationalError as error:
        logger.warning("could not queue all messages whose next try is due: %s", error)
        unclaim_waiting(due[queued:])
        return {"status": "partial", "messages": queued}
    with broker_client(self.app) as client:
        note_database(client, database_now)
    return {"status": "success", "messages": queued}


def _is_followed(one: Due) -> bool:
    """Whether other tasks follow the message's task (`link`,
    a chain), so that the task has to be queued by itself."""
    return bool((one.task or {}).keys() - _IDS)


def outbox_key(idempotency_key: str | None, task_id: str | None) -> str:
    """The key under which the outbox has the message of a task."""
    return f"key:{idempotency_key}" if idempotency_key else f"task:{task_id}"


def _sent(task: Any, send_it: Callable[[], Outgoing | None]) -> dict[str, Any]:
    """The result of the task. If the message is neither sent
    nor failed, the task runs again, or a later task goes on."""
    try:
        outgoing = send_it()
    except DeliveryUnderWayError as error:
        return task.snooze(error, error.seconds_left + 1, max_retries=_WAITS)  # type: ignore[no-any-return]
    except DeliveryWaitsError as error:
        logger.warning("not sent yet: %s", error, extra={"outbox": error.waiting["outbox_id"]})
        task.wait(error)
    except TransientError as error:
        logger.warning("not sent yet: %s", error)
        raise task.retry(exc=error, countdown=task.retry_delay(why=error), max_retries=_WAITS) from error
    except SoftTimeLimitError:
        late = DeliveryInterruptedError("the time of the task was used up")
        raise task.retry(exc=late, countdown=task.retry_delay(), max_retries=_WAITS) from None
    if outgoing is None:
        raise Ignore("it has been given up, and that was told")
    return _result(outgoing)


def _result(outgoing: Outgoing) -> dict[str, Any]:
    refused = {r.address: r.reply for r in outgoing.recipients if r.state == RecipientState.REFUSED}
    assert outgoing.accepted_at is not None
    return {
        "status": "partial" if refused else "success",
        "message_id": outgoing.message_id,
        "sent_timestamp": int(outgoing.accepted_at.timestamp() * 1000),
        "recipients_sent": len(outgoing.addresses(RecipientState.ACCEPTED)),
        "recipients_refused": refused,
        "outbox_id": outgoing.id,
    }
