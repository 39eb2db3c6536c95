"""Addresses that mail is sent to, as callers give them: read kindly, checked strictly (RFC 5321 section 4.1.2).

What arrives here ends in SMTP commands and header fields, so nothing passes that could end either.
"""

import re
from collections.abc import Iterable, Sequence

import idna

from tasks.errors import MessageInvalidError
from tasks.mail.message import Address

# `local@domain` or `Name <local@domain>`, alone or in a list. A name may hold anything but what ends it: it is
# quoted or encoded before it goes out.
_MAILBOX = re.compile(
    r'\s*+(?:(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<name>[^"<>,]*+))\s*+<(?P<angle>[^<>]++)>'
    r'|(?P<alone>"(?:[^"\\]|\\.)*+"@[^<>,\s]++|[^"<>,\s]++))\s*+(?:,|$)'
)
_ATOM = r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]|[^\x00-\x7f])+"
_LOCAL = re.compile(rf'{_ATOM}(?:\.{_ATOM})*|"(?:[^"\\\s]|\\[^\s]| )+"')
_ASCII_DOMAIN = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
                           r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*")  # fmt: skip
_LITERAL = re.compile(r"\[(?:IPv6:[0-9A-Fa-f:.]+|[0-9.]+)\]")

# RFC 5321 section 4.5.3.1, and the length of a path less its angle brackets.
_LONGEST_LOCAL, _LONGEST_ADDRESS = 64, 254


def mailboxes(given: str | Sequence[str] | None, field: str) -> tuple[Address, ...]:
    """The mailboxes of one field, given as a list or as one string with commas: `a@b` or `Name <a@b>`.

    Domains come out in ASCII (IDNA, RFC 5891). Raises MessageInvalidError, which names `field` and the culprit.
    """
    found: list[Address] = []
    for item in [given] if isinstance(given, str) else given or ():
        if not isinstance(item, str) or not item.isprintable():
            raise MessageInvalidError(f"{field}: {item!r} is not an address")
        position = 0
        while position < len(item.rstrip()):
            match = _MAILBOX.match(item, position)
            if not match:
                raise MessageInvalidError(f"{field}: {item!r} is not an address")
            quoted, name, angle, alone = match.groups()
            name = re.sub(r"\\(.)", r"\1", quoted) if quoted else (name or "").strip()
            found.append(Address(name, checked(angle or alone, field)))
            position = match.end()
    return tuple(found)


def checked(address: str, field: str) -> str:
    """The address, if mail can be sent to it, with its domain in ASCII. Raises MessageInvalidError."""
    local, _, domain = address.rpartition("@")
    domain = _ascii_domain(domain)
    fits = len(local.encode()) <= _LONGEST_LOCAL and len(local.encode()) + 1 + len(domain) <= _LONGEST_ADDRESS
    if not domain or not fits or not address.isprintable() or not _LOCAL.fullmatch(local):
        raise MessageInvalidError(f"{field}: {address!r} is not an address")
    return f"{local}@{domain}"


def unique(lists: Iterable[Sequence[Address]]) -> tuple[str, ...]:
    """The addresses of all lists, each once, in order; only a domain's letter case makes no difference."""
    found: dict[tuple[str, str], str] = {}
    for boxes in lists:
        for _, address in boxes:
            local, _, domain = address.rpartition("@")
            found.setdefault((local, domain.lower()), address)
    return tuple(found.values())


def _ascii_domain(domain: str) -> str:
    if _LITERAL.fullmatch(domain) or _ASCII_DOMAIN.fullmatch(domain):
        return domain
    if domain.endswith("."):
        return ""
    try:
        return idna.encode(domain, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        return ""
