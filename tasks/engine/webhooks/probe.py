"""`webhook test`: a request that tells of nothing, to see whether the receiver of an endpoint accepts it."""

import time

from tasks.engine.webhooks.receiver import Failure, Receiver
from tasks.engine.webhooks.request import request_for
from tasks.storage.events import Event, position_now
from tasks.storage.ids import new_id
from tasks.storage.session import database_now
from tasks.storage.webhooks.endpoints import enable, find_webhook, secrets_of

# The type of the event in it, which no row has.
TEST_TYPE = "webhook.test"


def probe(tenant_id: str, webhook_id: str) -> Failure | None:
    """Post a test to an endpoint. Where the receiver accepts it, an endpoint that was disabled or that waits gets
    events again, at once.

    Raises NotFoundError, WebhookUrlError and CredentialUnreadableError.
    """
    endpoint = find_webhook(tenant_id, webhook_id)
    event = Event(position_now(tenant_id), new_id(), TEST_TYPE, "", database_now(), {})
    with Receiver(endpoint.url) as receiver:
        failure = receiver.post(request_for(tenant_id, event, secrets_of(tenant_id, webhook_id), time.time()))
    if failure is None:
        enable(tenant_id, webhook_id)
    return failure
