"""When a message arrived, for protocols that do not tell (POP3)."""

import re
from datetime import UTC, datetime

from tasks.mail.parse.dates import date
from tasks.mail.parse.headers import one_line

_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(rb"^(Received|Date)[ \t]*:(.*\n?(?:[ \t].*\n?)*)", re.IGNORECASE | re.MULTILINE)


def arrived_at(raw: bytes, now: datetime) -> datetime:
    """When the last server on the way took the message (RFC 5321 section 4.4), else its Date, else now.

    A time in the future comes from a wrong clock, and counts as now.
    """
    header = _END_OF_HEADER.split(raw, maxsplit=1)[0]
    dates: dict[bytes, datetime] = {}
    for match in _FIELD.finditer(header):
        value = one_line(match[2].decode("latin-1")).rpartition(";")[2]
        moment = date(value.strip())
        if moment:
            dates.setdefault(match[1].lower(), moment)
    found = dates.get(b"received") or dates.get(b"date") or now
    return min(found, now.astimezone(UTC))
