"""What the answers of an SMTP server make of the recipients of a message. Pure.

pending -> offered (RCPT was taken) -> accepted (the message was); refused by any 5xx, pending again after any 4xx.
"""

from collections.abc import Sequence

from tasks.mail.smtp import Offer
from tasks.mail.smtp_session import Reply
from tasks.storage.outbox import Recipient


def after_offer(recipients: Sequence[Recipient], offer: Offer) -> list[Recipient]:
    """What the answers to RCPT make of those that were pending."""
    return [
        recipient
        if (reply := offer.recipients.get(recipient.address)) is None or recipient.state != "pending"
        else Recipient(recipient.address, _new_state(reply, "offered"), str(reply))
        for recipient in recipients
    ]


def after_answer(recipients: Sequence[Recipient], reply: Reply) -> list[Recipient]:
    """What the answer to DATA, or to the whole message, makes of those that it was for."""
    return [
        Recipient(recipient.address, _new_state(reply, "accepted"), str(reply))
        if recipient.state == "offered"
        else recipient
        for recipient in recipients
    ]


def _new_state(reply: Reply, if_positive: str) -> str:
    return if_positive if reply.is_positive else "refused" if reply.is_final else "pending"
