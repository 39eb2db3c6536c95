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
