"""Message identifiers (RFC 5322 section 3.6.4)."""

import re

_IN_ANGLES = re.compile(r"<([^<>]+)>")
_MAX_ID_LENGTH = 998


def identifiers(value: str) -> tuple[str, ...]:
    """The identifiers of Message-ID, In-Reply-To or References without their angle brackets, in order."""
    if not value:
        return ()
    found = _IN_ANGLES.findall(value)
    if not found:
        # Some programs forget the brackets; what has no @ either is a phrase such as "your message of Monday".
        found = [word.strip("<>,;") for word in value.split() if "@" in word]
    return tuple(identifier for text in found if (identifier := "".join(text.split())[:_MAX_ID_LENGTH]))
