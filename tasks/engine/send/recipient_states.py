"""The state of each recipient after the answers of an SMTP server. Functions without side effects.

pending -> offered (RCPT was taken) -> accepted (the message was); refused by any 5xx, pending again after any 4xx and
after a 5xx that says no more than that the recipients are too many for one transaction.
"""

import re
from collections.abc import Sequence

from tasks.mail.smtp.commands import Offer
from tasks.mail.smtp.session import Reply
from tasks.storage.outbox import Recipient
from tasks.storage.states import RecipientState

# Too many recipients: 552 without an enhanced code, or any 5xx with the enhanced code 5.5.3 (RFC 3463). A full
# mailbox is 552 as well, but with the enhanced code 5.2.2.
_TOO_MANY = re.compile(r"552 (?!5\.\d{1,3}\.\d{1,3}\b)|5\d\d 5\.5\.3\b")


def after_offer(recipients: Sequence[Recipient], offer: Offer) -> list[Recipient]:
    """The recipients after the server's answers to RCPT for the pending recipients."""
    is_begun = any(reply.is_positive for reply in offer.recipients.values())
    return [
        recipient
        if (reply := offer.recipients.get(recipient.address)) is None or recipient.state != RecipientState.PENDING
        else Recipient(recipient.address, _after_rcpt(reply, is_begun=is_begun), str(reply))
        for recipient in recipients
    ]


def after_answer(recipients: Sequence[Recipient], reply: Reply) -> list[Recipient]:
    """The recipients after the server's answer to DATA, or to the whole message."""
    return [
        Recipient(recipient.address, _new_state(reply, RecipientState.ACCEPTED), str(reply))
        if recipient.state == RecipientState.OFFERED
        else recipient
        for recipient in recipients
    ]


def may_have_been_sent(recipients: Sequence[Recipient]) -> list[Recipient]:
    """The recipients of a message that may have been sent to those who are not known to have it."""
    return [
        recipient if recipient.state == RecipientState.ACCEPTED else recipient._replace(state=RecipientState.OFFERED)
        for recipient in recipients
    ]


def _after_rcpt(reply: Reply, *, is_begun: bool) -> RecipientState:
    # Recipients beyond the server's limit get a transaction of their own (RFC 5321 section 4.5.3.1.10). If no
    # recipient was taken before, the number cannot be the reason.
    if is_begun and _TOO_MANY.match(str(reply)):
        return RecipientState.PENDING
    return _new_state(reply, RecipientState.OFFERED)


def _new_state(reply: Reply, if_positive: RecipientState) -> RecipientState:
    if reply.is_positive:
        return if_positive
    return RecipientState.REFUSED if reply.is_final else RecipientState.PENDING
