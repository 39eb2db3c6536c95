"""The tables, as SQLAlchemy sees them. `migrations/` makes them; a test proves that the two are equal.

Every primary, unique and foreign key begins with tenant_id, so a row cannot even point into another tenant.
Row-level security is forced on all of them (see the first migration): without a tenant set for the transaction,
the application's role sees no rows. Times are timestamptz, sizes are bytes.

The table `mail_watcher` alone belongs to no tenant; the application's role has no right to it.
"""

from tasks.storage.models.accounts import Credential, EmailClient, MailWatcher, OAuth2Grant
from tasks.storage.models.base import Base
from tasks.storage.models.events import EVENT_SLOTS, Event, EventDropped
from tasks.storage.models.messages import (
    MISSING_REASONS,
    Blob,
    EmailAttachment,
    EmailFolder,
    EmailMessage,
    RawQuarantine,
    Rereading,
)
from tasks.storage.models.outbox import OutboxMessage
from tasks.storage.models.restores import DatabaseRestore
from tasks.storage.models.tasks import DeadLetter, Deletion, QueuedTask
from tasks.storage.models.webhooks import Webhook, WebhookBacklog

__all__ = [
    "EVENT_SLOTS",
    "MISSING_REASONS",
    "Base",
    "Blob",
    "Credential",
    "DatabaseRestore",
    "DeadLetter",
    "Deletion",
    "EmailAttachment",
    "EmailClient",
    "EmailFolder",
    "EmailMessage",
    "Event",
    "EventDropped",
    "MailWatcher",
    "OAuth2Grant",
    "OutboxMessage",
    "QueuedTask",
    "RawQuarantine",
    "Rereading",
    "Webhook",
    "WebhookBacklog",
]
