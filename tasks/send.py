"""send_email: sends a message once. The work, and its state machine, are in tasks/engine/send/outbox.py.

A message whose server is away waits in its row: queue_waiting_mail, which beat runs, queues send_waiting for it when
its next try is due. No task waits for that in a worker or in Redis.
"""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from celery import shared_task
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from kombu.exceptions import OperationalError
from uuid_utils import uuid4

from tasks.engine.send.draft import SendRequest
from tasks.engine.send.outbox import give_up, give_up_key, resume_waiting, send
from tasks.errors import (
    DeliveryInterruptedError,
    DeliveryUnderWayError,
    DeliveryWaitsError,
    PoisonedTaskError,
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
from tasks.storage.waiting import Due, claim_waiting, unclaim_waiting

logger = logging.getLogger(__name__)

# How many messages whose next try is due are queued at a time, at most.
_MAX_AT_ONCE = 5000
# A task that was not begun after so many times the visibility timeout is lost: Redis was emptied, or fell back.
_LOST_AFTER, _MAX_LOST_SECONDS = 2, 30 * 24 * 3600
_IDS = {"task_id", "root_id", "parent_id"}

# How often a message is tried is counted in its row (SMTP_RETRIES), where a killed worker cannot lose count. The task
# itself only waits.
_WAITS = 1000


class SendTask(EmailTask):
    """A task whose message of the outbox is given up when the task is set aside, as nobody tries it any more."""

    abstract = True

    def quarantined(self, error: PoisonedTaskError, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(self.run).bind(*args, **kwargs).arguments
        if outbox_id := given.get("outbox_id"):
            give_up(given["tenant_id"], outbox_id, error)
        else:
            key = _key(given.get("idempotency_key"), self.request.id)
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

    Recipients are lists, or strings with commas, of `a@b` or `Name <a@b>`; attachments are ids of stored ones, and
    those the HTML shows by `cid:` go inline. Two calls with the same `idempotency_key` are one message.

    Returns `status` (success; partial where some recipients were refused), message_id, sent_timestamp (ms),
    recipients_sent (how many), recipients_refused (the server's words by address) and outbox_id.

    While its server is away or does not take it now, its state is RETRY, then WAITING, until one of these; that is
    told under the id of this task, and what follows it (`link`, a chain) goes on then.

    Raises PermanentError subclasses, after which nobody has the message; of them DeliveryUnknownError says that
    somebody may have it, and a person decides.
    """
    request = SendRequest(
        email_client_id, tenant_id, user_id, to, cc, bcc, subject, body_text, body_html, attachment_ids
    )
    task_id = self.request.id or owner_of("local")
    key = _key(idempotency_key, task_id)
    return _sent(self, lambda: send(request, key, owner_of(task_id), self.followers()))


@shared_task(bind=True, base=SendTask, name=SEND_WAITING, max_retries=3, default_retry_delay=5)
def send_waiting(self: Any, outbox_id: str, tenant_id: str, user_id: str) -> dict[str, Any]:
    """Try a message that waits in the outbox, whose time has come.

    Returns and raises what `send_email` does, and NotFoundError where the account was removed meanwhile.
    """
    run = owner_of(self.request.id or "local")
    result = _sent(self, lambda: resume_waiting(tenant_id, user_id, outbox_id, run))
    if self.request.id:
        # What failed as another task and was asked for again.
        dead_letters.clear(tenant_id, "", self.request.id)
    return result


@shared_task(bind=True, base=EmailTask, name=QUEUE_WAITING_MAIL, max_retries=0)
def queue_waiting_mail(self: Any) -> dict[str, Any]:
    """Queue `send_waiting` for each message of all tenants whose next try is due. Beat runs it.

    Returns `status` (success; partial where the broker did not take all: the rest is queued by the next run) and
    messages (queued).
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
    """Whether something follows its task, so that it cannot be queued with many others."""
    return bool((one.task or {}).keys() - _IDS)


def _key(idempotency_key: str | None, task_id: str | None) -> str:
    return f"key:{idempotency_key}" if idempotency_key else f"task:{task_id}"


def _sent(task: Any, send_it: Callable[[], Outgoing | None]) -> dict[str, Any]:
    """What became of the message; while that is nothing yet, the task comes back, or another does its work."""
    try:
        outgoing = send_it()
    except DeliveryUnderWayError as error:
        return task.snooze(error, error.seconds_left + 1, max_retries=_WAITS)  # type: ignore[no-any-return]
    except DeliveryWaitsError as error:
        logger.warning("not sent yet: %s", error, extra={"outbox_id": error.waiting["outbox_id"]})
        task.wait(error)
    except TransientError as error:
        logger.warning("not sent yet: %s", error)
        raise task.retry(exc=error, countdown=task.retry_delay(why=error), max_retries=_WAITS) from error
    except SoftTimeLimitExceeded:
        late = DeliveryInterruptedError("the time of the task was used up")
        raise task.retry(exc=late, countdown=task.retry_delay(), max_retries=_WAITS) from None
    if outgoing is None:
        raise Ignore("it has been given up, and that was told")
    return _result(outgoing)


def _result(outgoing: Outgoing) -> dict[str, Any]:
    refused = {r.address: r.reply for r in outgoing.recipients if r.state == "refused"}
    assert outgoing.accepted_at is not None
    return {
        "status": "partial" if refused else "success",
        "message_id": outgoing.message_id,
        "sent_timestamp": int(outgoing.accepted_at.timestamp() * 1000),
        "recipients_sent": len(outgoing.addresses("accepted")),
        "recipients_refused": refused,
        "outbox_id": outgoing.id,
    }
