"""What the answers of an SMTP server make of the recipients of a message. Pure.

pending -> offered (RCPT was taken) -> accepted (the message was); refused by any 5xx, pending again after any 4xx and
after a 5xx that says no more than that the recipients are too many for one transaction.
"""

import re
from collections.abc import Sequence

from tasks.mail.smtp.commands import Offer
from tasks.mail.smtp.session import Reply
from tasks.storage.outbox import Recipient

# 552 without a code of its own, or 5.5.3 of RFC 3463 with any; 552 is a full mailbox as well, and that is 5.2.2.
_TOO_MANY = re.compile(r"552 (?!5\.\d{1,3}\.\d{1,3}\b)|5\d\d 5\.5\.3\b")


def after_offer(recipients: Sequence[Recipient], offer: Offer) -> list[Recipient]:
    """What the answers to RCPT make of those that were pending."""
    is_begun = any(reply.is_positive for reply in offer.recipients.values())
    return [
        recipient
        if (reply := offer.recipients.get(recipient.address)) is None or recipient.state != "pending"
        else Recipient(recipient.address, _after_rcpt(reply, is_begun=is_begun), str(reply))
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


def _after_rcpt(reply: Reply, *, is_begun: bool) -> str:
    # Those beyond the limit go in a transaction of their own (RFC 5321 section 4.5.3.1.10). With nobody taken before
    # them it was not the number.
    return "pending" if is_begun and _TOO_MANY.match(str(reply)) else _new_state(reply, "offered")


def _new_state(reply: Reply, if_positive: str) -> str:
    return if_positive if reply.is_positive else "refused" if reply.is_final else "pending"
