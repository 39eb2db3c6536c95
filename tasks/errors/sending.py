"""Messages that cannot be sent, wait in the outbox, or may have been sent."""

from collections.abc import Mapping
from typing import Any

from tasks.errors.base import PermanentError, Remedy, TransientError


class SmtpServerMissingError(PermanentError):
    """The account has no SMTP server, so it cannot send."""

    code = "smtp_server_missing"


class MessageInvalidError(PermanentError):
    """The message cannot be sent as it is; nothing was sent."""

    code = "message_invalid"


class MessageRefusedError(PermanentError):
    """The mail server refuses the message; nobody got the message."""

    code = "message_refused"


class IdempotencyConflictError(PermanentError):
    """This idempotency key was used for a message with other content; nothing was sent."""

    code = "idempotency_conflict"


class DeliveryFailedError(PermanentError):
    """The mail server did not take the message within SMTP_MAX_AGE; nobody got the message."""

    code = "delivery_failed"


class DeliveryUnknownError(PermanentError):
    """Nobody knows whether the message was sent, as the server's answer is missing, and a person decides."""

    code = "delivery_unknown"
    remedy = Remedy.DECIDE_DELIVERY


class MaybeSentError(PermanentError):
    """The database was restored: the message may have been sent after the moment that it was restored to."""

    code = "maybe_sent"
    remedy = Remedy.DECIDE_DELIVERY


class NotUnknownError(PermanentError):
    """There is nothing for a person to decide about this message."""

    code = "not_unknown"


class DeliveryInterruptedError(TransientError):
    """The connection broke before the mail server's answer; whether the message was sent is found out later."""

    code = "delivery_interrupted"


class DeliveryWaitsError(TransientError):
    """The message waits in the outbox for its next try; the message goes out by itself once the server takes it."""

    code = "delivery_waits"

    def __init__(self, detail: str, waiting: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.waiting = waiting


class DeliveryUnderWayError(TransientError):
    """Another run is sending this very message."""

    code = "delivery_under_way"

    def __init__(self, seconds_left: float) -> None:
        super().__init__(f"for {seconds_left:.0f} s more at most")
        self.seconds_left = seconds_left
