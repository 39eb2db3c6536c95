"""The states that rows go through, by the words that the tables keep."""

from enum import StrEnum


class OutboxState(StrEnum):
    """The state of a message of the outbox (tasks/engine/send/outbox.py)."""

    QUEUED = "queued"
    SENDING = "sending"
    ACCEPTED = "accepted"
    SENT = "sent"
    FAILED = "failed"
    UNKNOWN = "unknown"


class RecipientState(StrEnum):
    """What a server answered to a recipient; `OFFERED`: it took the address, and the message may have followed."""

    PENDING = "pending"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    REFUSED = "refused"


class EventType(StrEnum):
    """What an event tells of (tasks/storage/events.py)."""

    MESSAGE_CREATED = "message.created"
    MESSAGE_UPDATED = "message.updated"
    MESSAGE_DELETED = "message.deleted"
    MESSAGE_SENT = "message.sent"
    MESSAGE_FAILED = "message.failed"
    MESSAGE_UNKNOWN = "message.unknown"
    FOLDER_CREATED = "folder.created"
    FOLDER_RENAMED = "folder.renamed"
    FOLDER_DELETED = "folder.deleted"
    FOLDER_RENUMBERED = "folder.renumbered"
    ACCOUNT_SYNCED = "account.synced"
    ACCOUNT_REREAD = "account.reread"
    ACCOUNT_FAILING = "account.failing"
    ACCOUNT_PAUSED = "account.paused"
    ACCOUNT_RESUMED = "account.resumed"
    ACCOUNT_REMOVED = "account.removed"
    WEBHOOK_DISABLED = "webhook.disabled"
    DATABASE_RESTORED = "database.restored"


class DisabledReason(StrEnum):
    """Why nothing is delivered to the endpoint of a webhook any more (tasks/engine/webhooks/verdict.py)."""

    GONE = "gone"  # it answered 410
    FAILING = "failing"  # it accepted nothing for days
