"""Address lists (RFC 5322 section 3.4) as people and programs really write them.

A scanner of our own: email.utils.getaddresses() changed what it accepts between patch releases of Python
(CVE-2023-27043), returns nothing for a list with one fault in it, and takes 13 us for one address.
"""

import re
from functools import lru_cache

from tasks.mail.message import Address
from tasks.mail.parse.charset import storable
from tasks.mail.parse.headers import decode_raw, decode_words, one_line

# `Name <local@domain>` and `local@domain`, alone or in a list, without anything that needs the scanner.
_SIMPLE = re.compile(
    r'[ \t]*+(?:(?:"([^"\\]*+)"[ \t]*+|([^"<>(),:;@\\\[\]]*+))<([^"<>(),:;@\\\s]++@[^"<>(),:;@\\\s]++)>'
    r'|([^"<>(),:;@\\\s]++@[^"<>(),:;@\\\s]++))[ \t]*+(?:,|$)'
)
_QUOTED = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_TOKEN = re.compile(
    r"(?P<encoded>=\?[^?\s]{0,60}\?[BbQq]\?[^?]*+\?=)"
    r"|(?P<angle><[^<>]*+>|<[^<>,;\s]*+)"
    r"|(?P<space>\s++)"
    r'|(?P<special>[,;:()>"])'
    r'|(?P<atom>[^"<>,;:()\s]++)'
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_COMMENT = re.compile(r"\([^()]*\)")
_PARENTHESIS = re.compile(r"\\.|[()]", re.DOTALL)
# Words longer than this are not joined, because an address has at most 254 characters.
_MAX_WORD_LENGTH = 1000


def addresses(value: str, charset: str | None = None) -> tuple[Address, ...]:
    """The mailboxes of one field body, not yet decoded; groups are flattened to their members. Never raises."""
    if len(value) < 256:
        return _cached(value, charset)
    return _addresses(value, charset)


def _addresses(value: str, charset: str | None) -> tuple[Address, ...]:
    value = decode_raw(value, charset)
    found: list[Address] = []
    position = 0
    while match := _SIMPLE.match(value, position):
        quoted, phrase, in_angles, alone = match.groups()
        found.append(_address(quoted or phrase or "", in_angles or alone, charset))
        position = match.end()
        if position >= len(value):
            return tuple(found)
    return (*found, *_Scanner(charset).scan(value[position:]))


_cached = lru_cache(maxsize=4096)(_addresses)


def _address(name: str, address: str, charset: str | None) -> Address:
    if "=?" in name:
        name = decode_words(name, charset)
    if address[:1] == "'":
        address = address.strip("'")
    return Address(one_line(storable(name)), one_line(storable(address)))


class _Scanner:
    """One pass over an address list that is not simple, with the parts of the present mailbox that have been read."""

    def __init__(self, charset: str | None) -> None:
        self.charset = charset
        self.found: list[Address] = []
        # After a quotation mark or parenthesis that is never closed, the next ones count as ordinary characters. So
        # no address that follows is lost, and the rest of the header is not searched once for each.
        self.quotes = self.parentheses = True
        self._reset()

    def _reset(self) -> None:
        self.words: list[str] = []
        self.trailing: list[str] = []
        self.comments: list[str] = []
        self.angle: str | None = None
        self.has_at = False
        self.joined = False

    def scan(self, value: str) -> list[Address]:
        position = 0
        while position < len(value):
            position = self._quoted(value, position) or self._comment(value, position) or self._token(value, position)
        self._flush()
        return self.found

    def _quoted(self, value: str, position: int) -> int | None:
        if value[position] != '"' or not self.quotes:
            return None
        match = _QUOTED.match(value, position)
        if match is None:
            self.quotes = False
            return None
        self._word(match[0])
        return match.end()

    def _comment(self, value: str, position: int) -> int | None:
        """Take the comment that opens here, nested ones included."""
        if value[position] != "(" or not self.parentheses:
            return None
        depth = 0
        for match in _PARENTHESIS.finditer(value, position):
            depth += {"(": 1, ")": -1}.get(match[0], 0)
            if depth == 0:
                self.comments.append(_QUOTED_PAIR.sub(r"\1", value[position + 1 : match.start()]).strip())
                return match.end()
        self.parentheses = False
        return None

    def _token(self, value: str, position: int) -> int:
        match = _TOKEN.match(value, position)
        if match is None:  # pragma: no cover - every character begins a token
            return position + 1
        kind, word = match.lastgroup, match[0]
        if kind == "angle":
            if self.angle is not None:
                self._begin_next()
            self.angle = word[1:].removesuffix(">")
        elif word == ":" and self.joined and self.has_at:
            # Within `user@[IPv6:2001:db8::1]`.
            self._word(word)
            return match.end()
        elif kind == "special":
            self._special(word)
        elif kind != "space":
            self._word(word)
        if kind in ("angle", "special", "space"):
            self.joined = False
        return match.end()

    def _special(self, character: str) -> None:
        if character in ",;":
            self._flush()
        elif character == ":" and self.angle is None and not self.has_at:
            # The words before are the name of a group.
            self._reset()

    def _begin_next(self) -> None:
        """Begin the next mailbox where a comma is missing: the
        words after `<a@b>` are the name of the next address."""
        waiting, self.trailing = self.trailing, []
        self._flush()
        self.words = waiting

    def _word(self, token: str) -> None:
        """Collect a word; the parts of `"local part"@domain`, of `a @ b` and of `a@b . c` are one."""
        if self.angle is not None and "@" in token and not _is_quoted(token):
            self._begin_next()
        words = self.words if self.angle is None else self.trailing
        if "@" in token and token[0] in "@.":
            _join_dotted(words)
        last = words[-1] if words else ""
        if last and self._continues(last, token) and len(last) < _MAX_WORD_LENGTH:
            words[-1] = last + token
        else:
            words.append(token)
        self.has_at = self.has_at or "@" in token
        self.joined = True

    def _continues(self, last: str, token: str) -> bool:
        if self.joined or token.startswith("@") or last.endswith("@"):
            return True
        if "@" in token:
            return token.startswith(".")
        return "@" in last and (token.startswith(".") or last.endswith("."))

    def _flush(self) -> None:
        words, comments, angle = self.words, self.comments, self.angle
        name = _phrase(words) or _phrase(self.trailing) or _phrase(comments)
        self._reset()
        if angle is not None:
            address = _in_angles(angle)
            if name or address:
                self.found.append(_address(name, address, self.charset))
        elif words:
            # A comment alone, as after a group, is no mailbox.
            self.found.extend(_without_angles(words, comments, self.charset))


def _join_dotted(words: list[str]) -> None:
    """Join the last words if dots connect them: `bo . smith` in `bo . smith @ two`."""
    while len(words) > 1 and len(words[-1]) < _MAX_WORD_LENGTH and (words[-1].startswith(".") or words[-2] == "."):
        words[-2:] = [words[-2] + words[-1]]


def _without_angles(words: list[str], comments: list[str], charset: str | None) -> list[Address]:
    """`a@b (Name)`, `Name a@b`, `a@b c@d`, or words with no address among them."""
    found: list[Address] = []
    name: list[str] = []
    for word in words:
        if "@" in word and not _is_quoted(word):
            found.append(_address(_phrase(name), word, charset))
            name = []
        else:
            name.append(word)
    if found:
        if comments and not found[-1].name:
            found[-1] = _address(_phrase(comments), found[-1].address, charset)
        return found
    if len(words) == 1 and not _is_quoted(words[0]) and "=?" not in words[0]:
        return [_address(_phrase(comments), words[0], charset)]
    text = _phrase(words)
    return [_address(text, "", charset)] if text else []


def _is_quoted(word: str) -> bool:
    return word.startswith('"') and word.endswith('"')


def _phrase(words: list[str]) -> str:
    return " ".join(_unquoted(word) for word in words).strip()


def _unquoted(word: str) -> str:
    if not word.startswith('"'):
        return word
    text = word[1:-1] if len(word) > 1 and word.endswith('"') else word[1:]
    return _QUOTED_PAIR.sub(r"\1", text)


def _in_angles(text: str) -> str:
    """The address of `<...>`, without an obsolete route, comments, or stray space."""
    text = _COMMENT.sub("", text) if "(" in text else text
    if text.startswith("@") and ":" in text:
        text = text.rpartition(":")[2]
    text = text.strip().removeprefix("mailto:")
    return text if text.startswith('"') else "".join(text.split())
