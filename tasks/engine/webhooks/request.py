"""A request of a webhook as Standard Webhooks describes it: the event as JSON, its id, the time, and signatures.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tasks.storage.events import Event
from tasks.storage.webhooks.endpoints import SECRET_PREFIX


class Request(NamedTuple):
    """What is posted."""

    headers: Mapping[str, str]
    body: bytes


def request_for(tenant_id: str, event: Event, secrets: Sequence[str], now: float) -> Request:
    """The request that tells of an event at this time (seconds since 1970), signed with each of the secrets."""
    told = {
        "id": event.id,
        "type": event.type,
        "timestamp": event.created_at.isoformat(),
        "tenant_id": tenant_id,
        "email_client_id": event.email_client_id,
        "position": event.position,
        "data": event.data,
    }
    body = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    moment = str(int(now))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "metabuilder-webhooks",
        "webhook-id": event.id,
        "webhook-timestamp": moment,
        "webhook-signature": " ".join(signature(secret, event.id, moment, body) for secret in secrets),
    }
    return Request(headers, body)


def signature(secret: str, event_id: str, moment: str, body: bytes) -> str:
    """`v1,` and the HMAC-SHA256 of id, time and body, in base64."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = b".".join((event_id.encode(), moment.encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
