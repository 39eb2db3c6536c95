"""One pass over what a message says, for all known phrases and tricks at once (Aho-Corasick)."""

from functools import lru_cache
from typing import Final, NamedTuple

from ahocorasick_rs import BytesAhoCorasick, Implementation

from tasks.mail.spam.phrases import PHRASES

# Marks in the sanitised HTML, which writes styles without spaces and in lower case (see
# tasks/mail/parse/html/sanitize.py).
HIDING: Final = (
    b"display:none", b"visibility:hidden", b"font-size:0", b"font-size:1px", b"opacity:0;", b'opacity:0"',
    b"max-height:0", b"line-height:0",
)  # fmt: skip
# Characters without width, and tags around nothing: both cut words in two.
_WITHOUT_WIDTH: Final = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u034f")
_AROUND_NOTHING: Final = ("<b></b>", "<i></i>", "<em></em>", "<strong></strong>", "<span></span>", "<font></font>")
CUTTING: Final = tuple(mark.encode() for mark in (*_WITHOUT_WIDTH, *_AROUND_NOTHING))

# How many characters of each body are scanned; spam does not begin later.
_LIMIT: Final = 256 * 1024


class Scan(NamedTuple):
    """`phrases` are the known phrases that occur, by kind. `hides` are the positions where HTML hides text, `cuts`
    those where words may be cut.

    `data` is the text that positions refer to: subject, text and HTML in lower case.
    """

    phrases: dict[str, list[str]]
    hides: list[int]
    cuts: list[tuple[int, int]]
    data: bytes


def scan(subject: str, text: str | None, html: str | None) -> Scan:
    """What is found in a message."""
    joined = "\n".join((subject, (text or "")[:_LIMIT], (html or "")[:_LIMIT]))
    data = joined.encode().lower().replace(b"\n", b" ")
    phrases: dict[str, list[str]] = {}
    hides: list[int] = []
    cuts: list[tuple[int, int]] = []
    for number, start, end in _automaton().find_matches_as_indexes(data):
        if number < _FIRST_MARK:
            if data[start - 1 : start].isalpha():
                continue  # "specialist" sells no pills
            kind, phrase = _BY_NUMBER[number]
            known = phrases.setdefault(kind, [])
            if phrase not in known:
                known.append(phrase)
        elif number < _FIRST_CUT:
            hides.append(start)
        else:
            cuts.append((start, end))
    return Scan(phrases, hides, cuts, data)


_BY_NUMBER: Final = [(kind, phrase) for kind, phrases in PHRASES.items() for phrase in phrases]
_FIRST_MARK: Final = len(_BY_NUMBER)
_FIRST_CUT: Final = _FIRST_MARK + len(HIDING)


@lru_cache(maxsize=1)
def _automaton() -> BytesAhoCorasick:
    patterns = [phrase.encode() for _, phrase in _BY_NUMBER]
    return BytesAhoCorasick([*patterns, *HIDING, *CUTTING], implementation=Implementation.DFA)
