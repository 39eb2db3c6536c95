"""Makes the HTML of a message safe to store and to show, with nh3 (Rust's ammonia).

The layout of mail is kept: tables, inline styles from a list of harmless properties and values, images by `cid:`,
`http(s):` and as `data:image`. Remote images are kept; the mail client decides whether to load them. Relative URLs
are removed, because they would point into the application that shows the message. Everything that the application's
own styles and scripts could match is removed too: classes, ids, names, roles, and elements such as <header>.
"""

import re
from typing import Final

import nh3

from tasks.mail.parse.html.limits import ATTRIBUTE, bounded
from tasks.mail.parse.html.values import STYLES, judged

# Elements whose content is never shown, or only by running code.
_DROPPED_WITH_CONTENT = {
    "applet", "embed", "frameset", "iframe", "math", "noembed", "noframes", "object", "script", "style", "svg",
    "template", "title", "xml",
}  # fmt: skip
_TAGS = (set(nh3.ALLOWED_TAGS) - {"area", "map"}) | {"address", "big", "font", "main", "section", "tfoot"}
_ATTRIBUTES = {
    # `cite` is a URL that nh3 does not check, `headers` refers to elements that may be the application's.
    **{tag: names - {"cite", "headers"} for tag, names in nh3.ALLOWED_ATTRIBUTES.items()},
    "*": {
        "align", "bgcolor", "border", "color", "dir", "height", "lang", "nowrap", "style", "title", "valign", "width",
    },
    "blockquote": {"type"},
    "font": {"color", "face", "size"},
    "table": {"cellpadding", "cellspacing", "summary"},
    "li": {"value"},
    "ol": {"start", "type"},
    "ul": {"type"},
}  # fmt: skip
# Mail programs' own names for a quotation or a signature, by which clients fold them.
_MARKS = {
    "gmail_quote", "gmail_quote gmail_quote_container", "gmail_signature", "moz-cite-prefix", "moz-signature",
    "protonmail_quote", "yahoo_quoted",
}  # fmt: skip
_ATTRIBUTE_VALUES = {
    **{tag: {"class": _MARKS} for tag in ("blockquote", "div", "pre")},
    # Roles that tell screen readers that a table is used for layout only.
    **{tag: {"role": {"none", "presentation"}} for tag in ("table", "tbody", "tr", "td")},
}
_URL_SCHEMES = {"http", "https", "mailto", "tel", "cid", "data"}
# Elements that are shown like <div>, but by whose names pages style and find their own parts.
_PARTS_OF_A_PAGE = re.compile(r"<(/?)(?:article|aside|footer|header|hgroup|main|nav|section)(?=[ >])")
# Elements whose content is text to an HTML parser, so that markup in it would be shown as source.
_TEXT_ELEMENT = re.compile(
    rf"<(/?)(?:noscript|textarea|(xmp|plaintext))(?=[\s/>])(?:{ATTRIBUTE})*+[\s/]*+>", re.IGNORECASE
)


def _without_text_elements(html: str) -> str:
    """`html` with the content of <noscript>, <textarea>, <xmp> and <plaintext> as HTML, the latter two as <pre>.

    Must be called before the sanitiser, which then checks the result. Each removed tag is replaced by a blank, so
    that the text around it cannot form a new tag.
    """
    return _TEXT_ELEMENT.sub(lambda tag: f"<{tag[1]}pre>" if tag[2] else " ", html)


_CLEANER: Final = nh3.Cleaner(
    tags=_TAGS,
    clean_content_tags=_DROPPED_WITH_CONTENT,
    attributes=_ATTRIBUTES,
    tag_attribute_values=_ATTRIBUTE_VALUES,
    filter_style_properties=STYLES,
    url_relative="deny",
    url_schemes=_URL_SCHEMES,
)


def sanitise(html: str) -> str:
    """`html` as a fragment that is safe to show inside a page, in time linear in its size.

    Raises ValueError where the sanitiser itself fails.
    """
    try:
        safe = _CLEANER.clean(bounded(html))
        # Markup shown as source is escaped. To look for escaped text
        # here is cheaper than to look for these elements in all HTML.
        if "&" in safe and ("&lt;" in safe or "&amp;" in safe) and _TEXT_ELEMENT.search(html):
            safe = _CLEANER.clean(bounded(_without_text_elements(html)))
    except BaseException as error:
        # A panic in Rust is no Exception and would end the worker's task instead of this message.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("the HTML sanitiser panicked") from error
    return judged(_PARTS_OF_A_PAGE.sub(r"<\1div", safe))
