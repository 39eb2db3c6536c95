"""Evidence: what the rules look at, collected once from a parsed message.

All evidence is stored in the database as well, so a stored message gives the same evidence as a new message: header
fields by name (the order of different fields is not stored), the sanitised HTML, and files up to CONTENT_LIMIT.
"""

from typing import Final, NamedTuple

from tasks.mail.message import Address, ParsedMessage
from tasks.mail.spam.domains import NOWHERE, Domain, examine
from tasks.mail.spam.links import Link, links_of
from tasks.mail.spam.scan import Scan, scan

CONTENT_LIMIT: Final = 1024 * 1024
_NOBODY: Final = Address("", "")


class Addressee(NamedTuple):
    """The account that got a message: its address, and the names
    under which its own server writes Authentication-Results.

    `authserv_ids` are in lower case (RFC 8601 section 2.5).
    """

    address: str
    authserv_ids: frozenset[str] = frozenset()


class Evidence(NamedTuple):
    """`headers` are by name in lower case, `sender` is the first address of From."""

    message: ParsedMessage
    recipient: Addressee
    headers: dict[str, list[str]]
    sender: Address
    sender_domain: Domain
    own_domain: Domain
    links: list[Link]
    scan: Scan

    def first(self, name: str) -> str:
        """The first value of a header field, or nothing."""
        values = self.headers.get(name)
        return values[0] if values else ""


def gather(message: ParsedMessage, recipient: Addressee) -> Evidence:
    """The evidence of a message."""
    sender = message.from_[0] if message.from_ else _NOBODY
    return Evidence(
        message=message,
        recipient=recipient,
        headers={name.lower(): values for name, values in message.headers.items()},
        sender=sender,
        sender_domain=domain_of(sender.address),
        own_domain=domain_of(recipient.address),
        links=links_of(message.text_body, message.html_body),
        scan=scan(message.subject, message.text_body, message.html_body),
    )


def domain_of(address: str) -> Domain:
    """What is known of the domain of an address."""
    host = address.rpartition("@")[2] if "@" in address else ""
    return examine(host.lower()) if host else NOWHERE
