"""Where the links of a message lead, and where they say that they lead."""

import re
from html import unescape
from typing import Final, NamedTuple

# How many different places are looked at, so that the time stays bounded; more links tell nothing new.
_MAX_PLACES: Final = 60
_MAX_AUTHORITY_LENGTH: Final = 300
_MAX_TEXT_LENGTH: Final = 2000

# Patterns for sanitised HTML, where attributes are in double quotes (see tasks/mail/parse/html/sanitize.py).
_AUTHORITY: Final = re.compile(r"[^\s/?#\\\"'<>()\[\]{}|^`]+|\[[0-9a-f:.]+\](?::\d+)?")
_TAGS: Final = re.compile(r"<[^>]*>")
_SHOWN: Final = re.compile(
    r"\s*(?:https?://)?(?:[^\s/@?#]+@)?((?:[\w-]+\.)+[\w-]{2,})(?:[:/?#]\S*)?\s*", re.IGNORECASE
)


class Link(NamedTuple):
    """Where a link leads. `shown` is the host that its text shows, if it shows one."""

    host: str
    has_login: bool
    shown: str | None


def links_of(text: str | None, html: str | None) -> list[Link]:
    """The links in text and HTML, each place once."""
    found: dict[Link, None] = {}
    seen: set[str] = set()
    if html:
        for piece in html.split('href="')[1:]:
            shown = _shown_host(piece)
            # Many links of a message lead to the same place, which is recognised by the text up to the third slash.
            place = piece[: piece.find("/", 8)]
            if shown is None and place in seen:
                continue
            seen.add(place)
            _add(found, piece, shown)
    if text:
        for piece in text.split("://")[1:]:
            _add(found, f"//{piece[:_MAX_AUTHORITY_LENGTH]}", None)
    return list(found)


def _add(found: dict[Link, None], url: str, shown: str | None) -> None:
    if len(found) >= _MAX_PLACES:
        return
    start = url.find("//", 0, 10)
    match = _AUTHORITY.match(url, start + 2, start + _MAX_AUTHORITY_LENGTH) if start >= 0 else None
    if match:
        login, _, host = match[0].rpartition("@")
        if not host.startswith("["):
            host = host.partition(":")[0]
        found[Link(host.lower().rstrip(".,;"), bool(login), shown)] = None


def _shown_host(piece: str) -> str | None:
    """The host that the text of a link shows. `piece` begins with the link's address, and the text follows."""
    start = piece.find(">") + 1
    end = piece.find("</a", start, start + _MAX_TEXT_LENGTH)
    if "." not in (text := piece[start:end] if end >= 0 else ""):
        return None
    match = _SHOWN.fullmatch(unescape(_TAGS.sub("", text)))
    return match[1].lower() if match else None
