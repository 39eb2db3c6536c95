"""send_email: sends a message once. The work, and its state machine, are in tasks/engine/outbox.py."""

import logging
from collections.abc import Sequence
from typing import Any

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from tasks.base import EmailTask
from tasks.engine.draft import SendRequest
from tasks.engine.outbox import send
from tasks.errors import DeliveryInterruptedError, DeliveryUnderWayError, TransientError
from tasks.storage.leases import owner_of
from tasks.storage.outbox import Outgoing

logger = logging.getLogger(__name__)

SEND_EMAIL = "email_service.tasks.send_email"

# How often a message is tried is counted in its row (SMTP_RETRIES), where a killed worker cannot lose count. The task
# itself only waits.
_WAITS = 1000


@shared_task(bind=True, base=EmailTask, name=SEND_EMAIL, max_retries=3, default_retry_delay=5, is_each_its_own=True)
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

    Raises PermanentError subclasses, after which nobody has the message; of them DeliveryUnknownError says that
    somebody may have it, and a person decides.
    """
    request = SendRequest(
        email_client_id, tenant_id, user_id, to, cc, bcc, subject, body_text, body_html, attachment_ids
    )
    task_id = self.request.id or owner_of("local")
    key = f"key:{idempotency_key}" if idempotency_key else f"task:{task_id}"
    try:
        return _result(send(request, key, owner_of(task_id)))
    except DeliveryUnderWayError as error:
        return self.look_again(error, error.seconds_left + 1, max_retries=_WAITS)  # type: ignore[no-any-return]
    except TransientError as error:
        logger.warning("not sent yet: %s", error, extra={"email_client_id": email_client_id})
        raise self.retry(exc=error, countdown=self.retry_delay(why=error), max_retries=_WAITS) from error
    except SoftTimeLimitExceeded:
        late = DeliveryInterruptedError("the time of the task was used up")
        raise self.retry(exc=late, countdown=self.retry_delay(), max_retries=_WAITS) from None


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
