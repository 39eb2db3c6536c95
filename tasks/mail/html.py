"""HTML of a message made safe to store and to show (nh3, Rust's ammonia).

Kept is what mail is laid out with: tables, inline styles from a list of harmless properties, classes, images
by `cid:`, `http(s):` and as `data:image`. Remote images stay: whether to load them is the mail client's to
decide. Relative URLs go: in a message they would point into the application that shows it.
"""

import re
from typing import Final

import nh3

from tasks.mail.html_limits import ATTRIBUTE, bounded

# Shown to nobody, or only by running something.
_DROPPED_WITH_CONTENT = {
    "applet", "embed", "frameset", "iframe", "math", "noembed", "noframes", "object", "script", "style", "svg",
    "template", "title", "xml",
}  # fmt: skip
_TAGS = (set(nh3.ALLOWED_TAGS) - {"area", "map"}) | {"address", "big", "font", "main", "section", "tfoot"}
_ATTRIBUTES = {
    # `cite` is a URL that nh3 does not look at.
    **{tag: names - {"cite"} for tag, names in nh3.ALLOWED_ATTRIBUTES.items()},
    "*": {
        "align", "bgcolor", "border", "class", "color", "dir", "height", "lang", "nowrap", "role", "style",
        "title", "valign", "width",
    },
    "blockquote": {"type"},
    "font": {"color", "face", "size"},
    "table": {"cellpadding", "cellspacing", "summary"},
    "li": {"value"},
    "ol": {"start", "type"},
    "ul": {"type"},
}  # fmt: skip
_URL_SCHEMES = {"http", "https", "mailto", "tel", "cid"}
# Nothing that leaves its place in the page or covers what the client shows (position, z-index, ...).
_STYLES = {
    *("background", "background-color", "background-image", "background-position", "background-repeat"),
    *("background-size", "color", "opacity", "direction", "display", "float", "clear", "overflow", "visibility"),
    *("font", "font-family", "font-size", "font-style", "font-variant", "font-weight", "letter-spacing"),
    *("line-height", "list-style", "list-style-type", "list-style-position", "text-align", "text-decoration"),
    *("text-indent", "text-transform", "vertical-align", "white-space", "word-break", "word-spacing"),
    *("word-wrap", "overflow-wrap", "height", "width", "max-height", "max-width", "min-height", "min-width"),
    *("border-collapse", "border-spacing", "border-radius", "table-layout", "caption-side", "empty-cells"),
    *("box-sizing", "mso-line-height-rule"),
    *(f"{box}{side}" for box in ("margin", "padding") for side in ("", "-top", "-right", "-bottom", "-left")),
    *(
        f"border{side}{aspect}"
        for side in ("", "-top", "-right", "-bottom", "-left")
        for aspect in ("", "-color", "-style", "-width")
    ),
}
# To an HTML parser their content is text, so that markup in it would be shown as source.
_TEXT_ELEMENT = re.compile(
    rf"<(/?)(?:noscript|textarea|(xmp|plaintext))(?=[\s/>])(?:{ATTRIBUTE})*+[\s/]*+>", re.IGNORECASE
)
_DATA_IMAGE = re.compile(r"data:image/(?:png|gif|jpe?g|webp|bmp|x-icon|avif);base64,", re.IGNORECASE)


def _only_images_as_data(tag: str, attribute: str, value: str) -> str | None:
    """An nh3 attribute filter: `data:` is for the images of `<img src>`, and not for SVG, which can run scripts."""
    if value[:5].lower() != "data:" or attribute not in ("src", "href"):
        return value
    return value if tag == "img" and attribute == "src" and _DATA_IMAGE.match(value) else None


def _without_text_elements(html: str) -> str:
    """`html` with the content of <noscript>, <textarea>, <xmp> and <plaintext> as HTML, the latter two as <pre>.

    Goes before the sanitiser, which sees what came of it. A blank takes a tag's place, so that what stood around
    it does not become a tag of its own.
    """
    return _TEXT_ELEMENT.sub(lambda tag: f"<{tag[1]}pre>" if tag[2] else " ", html)


def _cleaner(**options: object) -> nh3.Cleaner:
    return nh3.Cleaner(
        tags=_TAGS,
        clean_content_tags=_DROPPED_WITH_CONTENT,
        attributes=_ATTRIBUTES,
        filter_style_properties=_STYLES,
        url_relative="deny",
        **options,  # type: ignore[arg-type]  # two calls below, each with options of nh3
    )


# nh3 asks a Python function about every attribute, which takes as long as the rest: only where it is needed.
_CLEANER: Final = _cleaner(url_schemes=_URL_SCHEMES)
_CLEANER_WITH_DATA: Final = _cleaner(url_schemes=_URL_SCHEMES | {"data"}, attribute_filter=_only_images_as_data)


def sanitise(html: str) -> str:
    """`html` as a fragment that is safe to show inside a page, in time linear in its size.

    Raises ValueError where the sanitiser itself fails.
    """
    cleaner = _CLEANER_WITH_DATA if "data:" in html or "DATA:" in html else _CLEANER
    try:
        safe = cleaner.clean(bounded(html))
        # Only escaped text can be somebody's source: to look for it here is cheaper than for elements in all HTML.
        if "&" in safe and ("&lt;" in safe or "&amp;" in safe) and _TEXT_ELEMENT.search(html):
            safe = cleaner.clean(bounded(_without_text_elements(html)))
        return safe
    except BaseException as error:
        # A panic in Rust is no Exception and would end the worker's task instead of this message.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("the HTML sanitiser panicked") from error
