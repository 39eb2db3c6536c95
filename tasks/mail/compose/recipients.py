"""Reads the recipients that callers give: accepts many ways of
writing, and checks addresses strictly (RFC 5321 section 4.1.2).

Addresses go into SMTP commands and header fields, so no character passes that could end a command or a field.

A local part that is no dot-string, such as `try..this` and `abc.` of Japanese carriers, becomes a quoted string. That
is the standard's form for such a local part, in the envelope and in a header, and Postfix sends it too
(smtp_quote_rfc821_envelope). Servers compare the text inside the quotes.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import idna

from tasks.errors import MessageInvalidError
from tasks.mail.message import Address

# White space, and invisible characters that are copied along with an address: zero width, direction, order.
_UNSEEN = [0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF]
_BLANKS = "".join(map(chr, [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, *range(0x2000, 0x200B), *_UNSEEN])) + (
    "\u1680\u2028\u2029\u202f\u205f\u3000"
)
_BLANK = f"[{_BLANKS}]"
# `local@domain` or `Name <local@domain>`, alone or in a list. A name may hold anything but what ends it: it is
# quoted or encoded before it goes out.
_MAILBOX = re.compile(
    rf'{_BLANK}*+(?:(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<name>[^"<>,]*+)){_BLANK}*+<(?P<angle>[^<>]++)>'
    rf'|(?P<alone>"(?:[^"\\]|\\.)*+"@[^<>,\s]++|[^"<>,\s]++)){_BLANK}*+(?:,|$)',
    re.DOTALL,
)
_LINE_END = re.compile("[\n\r\v\f\x00\x1c-\x1e\x85\u2028\u2029]")
_ATOM = r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]|[^\x00-\x7f])+"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_NOT_IN_LOCAL = re.compile(r"[^A-Za-z0-9!#$%&'*+/=?^_`{|}~.\x80-\U0010ffff-]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)+)"')
_QUOTED_PAIR = re.compile(r"\\(.)")
_NOT_TEXT = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_LITERAL = re.compile(r"\[(?:IPv6:[0-9A-Fa-f:.]+|[0-9.]+)\]")

# RFC 5321 section 4.5.3.1, and the length of a path less its angle brackets.
_MAX_LOCAL_LENGTH, _MAX_DOMAIN_LENGTH, _MAX_ADDRESS_LENGTH = 64, 253, 254


def mailboxes(given: str | Sequence[str] | None, field: str) -> tuple[Address, ...]:
    """The mailboxes of one field, given as a list or as one string with commas: `a@b` or `Name <a@b>`.

    Names hold any text but line ends. Domains come out in ASCII (IDNA, RFC 5891). Raises MessageInvalidError, which
    names `field`, the culprit, and what is wrong with it.
    """
    found: list[Address] = []
    for item in [given] if isinstance(given, str) else given or ():
        if not isinstance(item, str):
            raise MessageInvalidError(f"{field}: {item!r} is not an address: it is not a text")
        item, position = item.strip(_BLANKS), 0
        while position < len(item):
            match = _MAILBOX.match(item, position)
            if not match:
                raise MessageInvalidError(f"{field}: {item!r} is not an address: {_why_unreadable(item[position:])}")
            quoted, name, angle, alone = match.groups()
            name = _QUOTED_PAIR.sub(r"\1", quoted) if quoted else (name or "").strip()
            if line_end := _LINE_END.search(name):
                raise MessageInvalidError(f"{field}: the name {name!r} holds a line end, {_named(line_end[0])}")
            found.append(Address(name, checked(angle or alone, field)))
            position = match.end()
    return tuple(found)


def checked(address: str, field: str) -> str:
    """The address in the form in which mail is sent to it: without blanks around, the domain in ASCII, the local part
    quoted if necessary. Raises MessageInvalidError.
    """
    address = address.strip(_BLANKS)
    local, at, domain = address.rpartition("@")
    try:
        if not at:
            raise ValueError("it has no @")
        local, domain = _local_part(local), _ascii_domain(domain)
        if len(local.encode()) + 1 + len(domain) > _MAX_ADDRESS_LENGTH:
            raise ValueError(f"it is longer than {_MAX_ADDRESS_LENGTH} characters")
    except ValueError as error:
        raise MessageInvalidError(f"{field}: {address!r} is not an address: {error}") from error
    return f"{local}@{domain}"


def unique(lists: Iterable[Sequence[Address]]) -> tuple[str, ...]:
    """The addresses of all lists in order, each once. Domains are compared without case, local parts with case."""
    found: dict[tuple[str, str], str] = {}
    for boxes in lists:
        for _, address in boxes:
            local, _, domain = address.rpartition("@")
            found.setdefault((local, domain.lower()), address)
    return tuple(found.values())


def _local_part(local: str) -> str:
    """The local part as a dot-string if possible, else as a quoted string.

    Raises ValueError that says what is wrong.
    """
    text = _QUOTED_PAIR.sub(r"\1", quoted[1]) if (quoted := _QUOTED.fullmatch(local)) else local
    if not text:
        raise ValueError("nothing stands before the @")
    for char in text:
        if char != " " and unicodedata.category(char) in _NOT_TEXT:
            raise ValueError(f"{_named(char)} cannot stand before the @")
    if not quoted and (bad := _NOT_IN_LOCAL.search(text)):
        raise ValueError(f"{_named(bad[0])} cannot stand before the @ without quotation marks")
    if not _DOT_STRING.fullmatch(text):
        text = '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
    if len(text.encode()) > _MAX_LOCAL_LENGTH:
        raise ValueError(f"more than {_MAX_LOCAL_LENGTH} characters stand before the @")
    return text


def _ascii_domain(domain: str) -> str:
    """The domain in ASCII. Raises ValueError that says what is wrong."""
    if _LITERAL.fullmatch(domain):
        return domain
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode()
        except (idna.IDNAError, UnicodeError) as error:
            raise ValueError(f"its domain is none: {error}") from error
    if bad := re.search(r"[^A-Za-z0-9_.-]", domain):
        raise ValueError(f"{_named(bad[0])} cannot stand in a domain")
    if not all(map(_LABEL.fullmatch, domain.split("."))):
        raise ValueError("its domain is none: each of its parts has 1 to 63 characters and a hyphen only within")
    if len(domain) > _MAX_DOMAIN_LENGTH:
        raise ValueError(f"its domain is longer than {_MAX_DOMAIN_LENGTH} characters")
    return domain


def _why_unreadable(rest: str) -> str:
    rest = rest.strip(_BLANKS)
    if rest.startswith(","):
        return "nothing stands before a comma"
    if rest.count('"') % 2:
        return 'a " is without its second one'
    if rest.count("<") != rest.count(">"):
        return "a < or > is without the other one"
    return 'addresses are separated by commas, and a name that holds one of < > , " is put into quotation marks'


def _named(char: str) -> str:
    return f"U+{ord(char):04X} {unicodedata.name(char, 'a control character')}"
