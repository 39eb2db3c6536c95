"""Rewrites HTML for which the sanitiser would need more than linear time.

html5ever's time grows with tags times depth, with the square of one tag's attributes, and with the square of
one text's character references. Small HTML cannot do harm and is left alone.
"""

import re
from collections import Counter
from html import unescape
from typing import Final

# Below these limits the sanitiser takes less than 50 ms in the worst case.
_SMALL_SIZE: Final = 200_000
_FEW_TAGS: Final = 5_000
_FEW_REFERENCES: Final = 20_000

# Beyond these tags and attributes are dropped, and character references written out; the text stays.
_MAX_DEPTH: Final = 256
_MAX_TAGS: Final = 200_000
_MAX_ATTRIBUTES: Final = 64
_MAX_REFERENCES: Final = 50_000

# The tokens of WHATWG HTML section 13.2.5. Possessive, so that nothing is looked at twice.
ATTRIBUTE: Final = (
    r"[\s/]*+[^\s/>][^\s/>=]*+"
    r"(?:\s*+=\s*+(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|[^\s>\"'][^\s>]*+|(?=>)))?+"
)
_FIRST_ATTRIBUTES = re.compile(rf"(?:{ATTRIBUTE}){{{_MAX_ATTRIBUTES}}}")
_TOKEN = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(script|style|title|iframe|noembed|noframes|xmp)(?=[\s/>]).*?(?:</\1(?=[\s/>])[^>]*>|\Z)"
    r"|<(?:[!?]|/[^a-zA-Z])[^>]*>?"
    rf"|<(?P<close>/?)(?P<name>[a-zA-Z][^\s/>]*+)(?P<attributes>(?:{ATTRIBUTE})*+)[\s/]*+>?",
    re.DOTALL | re.IGNORECASE,
)
# The content of these elements is text to a parser, so the tokens here would miss where the elements end.
_TEXT_ELEMENTS = frozenset({"textarea", "plaintext", "noscript", "template"})
# Elements without content, and elements that end when the next one of their kind begins.
_NOT_NESTING = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr",
    "dd", "dt", "li", "option", "p", "tbody", "td", "th", "tr",
})  # fmt: skip


def bounded(html: str) -> str:
    """Return `html`, or, if sanitising it could take long, simpler HTML with the same text. Takes linear time."""
    if len(html) <= _SMALL_SIZE and html.count("<") <= _FEW_TAGS and html.count("&") <= _FEW_REFERENCES:
        return html
    return _Writer().write(html)


class _Writer:
    """Writes well-nested tags, so that every "<" begins a tag, and
    the sanitiser sees exactly the tags that were counted here."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.open: list[str] = []
        self.open_count: Counter[str] = Counter()
        self.tags = self.references = 0

    def write(self, html: str) -> str:
        position = 0
        for match in _TOKEN.finditer(html):
            self._text(html[position : match.start()])
            if name := match["name"]:
                self._tag(match["close"], name, match["attributes"])
            position = match.end()
        self._text(html[position:])
        return "".join(self.out)

    def _text(self, text: str) -> None:
        text = text.replace("<", "&lt;")
        self.references += text.count("&")
        if self.references > _MAX_REFERENCES:
            # Replace & and < by characters that look alike and need no references.
            text = unescape(text).replace("&", "\uff06").replace("<", "\uff1c")
        self.out.append(text)

    def _tag(self, close: str, name: str, attributes: str) -> None:
        element = name.lower().replace("<", "")
        self.tags += 1
        if element in _TEXT_ELEMENTS or self.tags > _MAX_TAGS:
            self.out.append(" ")
        elif close:
            self._close(element)
        else:
            if first := _FIRST_ATTRIBUTES.match(attributes):
                attributes = first[0]
            self._open(element, attributes.replace("<", "&lt;"))

    def _open(self, element: str, attributes: str) -> None:
        if element not in _NOT_NESTING:
            self.open.append(element)
            self.open_count[element] += 1
            if len(self.open) > _MAX_DEPTH:
                return
        self.out.append(f"<{element}{attributes}>")

    def _close(self, element: str) -> None:
        if element in _NOT_NESTING:
            self.out.append(f"</{element}>")
        elif self.open_count[element]:
            # Close everything that is open inside too: if the sanitiser
            # ignored an end tag, the depth counted here would be wrong.
            closed = ""
            while closed != element:
                if len(self.open) <= _MAX_DEPTH:
                    self.out.append(f"</{self.open[-1]}>")
                closed = self.open.pop()
                self.open_count[closed] -= 1
