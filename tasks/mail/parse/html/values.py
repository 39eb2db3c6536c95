"""Checks URLs and styles in the HTML that nh3 has written, reading them as a browser does.

nh3 parses URLs and styles as a browser does (WHATWG URL; CSS Syntax Module Level 3) and
checks the scheme of URLs and the names of properties. This module checks the rest of URLs and
the values of properties. It relies on how nh3 writes HTML: attributes in double quotes, with
`"`, `<` and `>` as references; declarations as `name:value;name:value`, without comments.
"""

import re
from functools import lru_cache
from html import unescape
from typing import Final

# A browser takes a web address without its two slashes (`https:/x`) for one relative to the page that shows it.
_WEB: Final = "https?://"
# Not SVG, which can run scripts and load more.
_IMAGE: Final = rf"(?:{_WEB}|cid:|data:image/(?:png|gif|jpe?g|webp|bmp|x-icon|avif);base64,)"
_LINK: Final = rf"(?:{_WEB}|cid:|mailto:|tel:)"
_URLS: Final = {"href": re.compile(f"(?i:{_LINK})"), "src": re.compile(f"(?i:{_IMAGE})")}
# The beginnings of nearly all links; other links are checked more closely.
_USUAL_LINKS: Final = ("https://", "http://", "mailto:")
_USUAL_IMAGES: Final = ("https://", "http://", "cid:")
# Characters that a browser removes from a URL (WHATWG URL section
# 4.4): blanks and controls around, tabs and line ends inside.
_AROUND_URLS: Final = "".join(map(chr, range(0x21)))
_INSIDE_URLS: Final = str.maketrans("", "", "\t\n\r")

# Values may consist of the following pieces only. These exclude variables (`var()` reads the application's), units of
# the window, escapes, and functions that load. Negative numbers are excluded, because even small ones add up and move
# content out of its place.
_LENGTH: Final = r"\+?\d{1,4}(?:\.\d+)?(?:%|(?i:px|pt|pc|in|cm|mm|q|em|rem|ex|ch))?"
_PLAIN: Final = rf"-?[^\W\d][\w-]*|{_LENGTH}|#[0-9a-fA-F]{{3,8}}|(?:rgb|hsl)a?\([\w %.,/+-]*\)"
_CALCULATED: Final = rf"calc\((?:{_LENGTH}(?![\w.])|[-+*/ ])*+\)"
_PICTURE: Final = (
    rf'-{_LENGTH}|url\("(?i:{_IMAGE})[^"<>\\]*"\)|(?:repeating-)?(?:linear|radial|conic)-gradient\([\w #%.,+-]*\)'
)
_NAME: Final = r'"[^"<>\\]*"'


def _made_of(*tokens: str) -> re.Pattern[str]:
    return re.compile(rf"(?:(?:{'|'.join(tokens)})(?=[ ,/]|\Z)[ ,/]*+)++")


_SIDES: Final = ("", "-top", "-right", "-bottom", "-left")
# Properties that cannot move content out of its place or over
# the client's own (no position, transform, z-index, ...).
_PLAIN_STYLES: Final = {
    *("background-color", "background-repeat", "background-size", "color", "opacity", "direction", "display"),
    *("float", "clear", "overflow", "visibility", "font-size", "font-style", "font-variant", "font-weight"),
    *("letter-spacing", "line-height", "list-style-type", "list-style-position", "text-align", "text-decoration"),
    *("text-indent", "text-transform", "vertical-align", "white-space", "word-break", "word-spacing", "word-wrap"),
    *("overflow-wrap", "border-collapse", "border-spacing", "border-radius", "table-layout", "caption-side"),
    *("empty-cells", "box-sizing", "mso-line-height-rule"),
    *(f"{box}{side}" for box in ("margin", "padding") for side in _SIDES),
    *(f"border{side}{aspect}" for side in _SIDES for aspect in ("", "-color", "-style", "-width")),
}
_VALUES: Final = {
    **dict.fromkeys(_PLAIN_STYLES, _made_of(_PLAIN)),
    **dict.fromkeys(
        ("background", "background-image", "background-position", "list-style"), _made_of(_PLAIN, _PICTURE)
    ),
    **dict.fromkeys(("font", "font-family"), _made_of(_PLAIN, _NAME)),
    **dict.fromkeys(
        (f"{bound}{way}" for bound in ("", "max-", "min-") for way in ("height", "width")),
        _made_of(_PLAIN, _CALCULATED),
    ),
}
STYLES: Final = frozenset(_VALUES)

_DECLARATION: Final = re.compile(r'(?:[^;"\\]++|\\.|"(?:[^"\\]++|\\.)*+")++', re.DOTALL)
_TAG: Final = re.compile(r'<[a-z][^\s>]*+(?: [^\s="<>]++="[^"]*+")++>')
_ATTRIBUTE: Final = re.compile(r' ([^\s="<>]++)="([^"]*+)"')


def judged(html: str) -> str:
    """`html`, as nh3 wrote it, without the URLs and declarations that are not known to be harmless."""
    # Most HTML needs no change, which a search of the whole text finds out. A match
    # in text only costs a look at every tag. It cannot hide an attribute, because a
    # value that begins in text or in another attribute is never one that is kept.
    styles = {style: _style(style) for style in {piece.partition('"')[0] for piece in html.split(' style="')[1:]}}
    if (
        all(style == kept for style, kept in styles.items())
        and all(piece.startswith(_USUAL_LINKS) for piece in html.split(' href="')[1:])
        and all(piece.startswith(_USUAL_IMAGES) for piece in html.split(' src="')[1:])
    ):
        return html
    return _TAG.sub(lambda tag: _ATTRIBUTE.sub(lambda match: _attribute(match, styles), tag[0]), html)


def _attribute(match: re.Match[str], styles: dict[str, str]) -> str:
    name, value = match.groups()
    if name == "style":
        return f' style="{styles[value] if value in styles else _style(value)}"'
    if name not in _URLS:
        return match[0]
    url = unescape(value).strip(_AROUND_URLS).translate(_INSIDE_URLS)
    return f' {name}="{_written(url)}"' if _URLS[name].match(url) else ""


def _style(value: str) -> str:
    """The declarations of a style attribute that are kept; `value` and result as they stand in HTML."""
    style = unescape(value) if "&" in value else value
    # Only a string can hold a semicolon that ends no declaration.
    declarations = _DECLARATION.findall(style) if '"' in style else style.split(";")
    kept = ";".join(filter(None, map(_declaration_or_known, declarations)))
    return value if kept == style else _written(kept)


def _declaration(declaration: str) -> str | None:
    name, _, value = declaration.partition(":")
    # With <style> gone, only the application's own rules are left to win against.
    value = value.removesuffix(" ! important")
    return f"{name}:{value}" if name in _VALUES and _VALUES[name].fullmatch(value) else None


# Mail has the same few declarations over and over. Long ones are URLs, which it has once.
_known: Final = lru_cache(maxsize=4096)(_declaration)


def _declaration_or_known(declaration: str) -> str | None:
    return _known(declaration) if len(declaration) < 100 else _declaration(declaration)


def _written(value: str) -> str:
    return value.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
