"""Which parts are the text, the HTML and the attachments of a message (RFC 8621 section 4.1.4)."""

import re
from html import escape, unescape
from io import IncrementalNewlineDecoder
from typing import NamedTuple
from urllib.parse import unquote

from tasks.mail.message import Attachment
from tasks.mail.parse.charset import codec_for, decode
from tasks.mail.parse.file_names import file_name
from tasks.mail.parse.header_section import split_headers
from tasks.mail.parse.headers import decode_value, one_line
from tasks.mail.parse.html.sanitize import sanitise
from tasks.mail.parse.mime import Part

_MEDIA = ("image/", "audio/", "video/")
_TEXT = "text/plain"
_HTML = "text/html"
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_CID = re.compile(r"""cid:([^"'\s<>)]+)""", re.IGNORECASE)
_SUBJECT_BYTES = 200


class Bodies(NamedTuple):
    text: str | None
    html: str | None
    attachments: tuple[Attachment, ...]


class _Chosen:
    """The lists that RFC 8621 section 4.1.4 builds. A part that is in neither body is a file."""

    def __init__(self) -> None:
        self.text: list[Part] = []
        self.html: list[Part] = []
        self.files: list[Part] = []

    def container(self, parts: list[Part], subtype: str, to_text: bool, to_html: bool, alternative: bool) -> None:
        """parseStructure() of section 4.1.4. `to_text` and `to_html` are False where the RFC sets a list to null."""
        text_before, html_before = len(self.text), len(self.html)
        for index, part in enumerate(parts):
            if part.parts is not None:
                inner = part.mime_type.partition("/")[2]
                self.container(part.parts, inner, to_text, to_html, alternative or inner == "alternative")
            elif not _is_inline(part, index, subtype):
                self.files.append(part)
            elif subtype == "alternative":
                {_TEXT: self.text, _HTML: self.html}.get(part.mime_type, self.files).append(part)
            else:
                if alternative:
                    to_html = to_html and part.mime_type != _TEXT
                    to_text = to_text and part.mime_type != _HTML
                self._inline(part, to_text, to_html)
        if subtype == "alternative" and to_text and to_html:
            if len(self.text) == text_before:
                self.text.extend(self.html[html_before:])
            elif len(self.html) == html_before:
                self.html.extend(self.text[text_before:])

    def _inline(self, part: Part, to_text: bool, to_html: bool) -> None:
        if to_text:
            self.text.append(part)
        if to_html:
            self.html.append(part)
        if part.mime_type.startswith(_MEDIA):
            # The RFC leaves a picture between two texts to the bodies alone; here a body is one string.
            self.files.append(part)


def bodies(root: Part) -> Bodies:
    """The bodies of a message as text (line ends LF) and as sanitised HTML, and its other parts in order."""
    chosen = _Chosen()
    chosen.container([root], "mixed", to_text=True, to_html=True, alternative=False)
    text = _joined([_text_of(part) for part in chosen.text if part.mime_type == _TEXT])
    html = None
    if any(part.mime_type == _HTML for part in chosen.html):
        html = "\n".join(_html_of(part) for part in chosen.html if part.mime_type in (_TEXT, _HTML))
    shown = _content_ids(html) if html and any(part.content_id for part in chosen.files) else frozenset()
    return Bodies(text, html, tuple(_attachment(part, shown) for part in chosen.files))


def _is_inline(part: Part, index: int, container: str) -> bool:
    media = part.mime_type.startswith(_MEDIA)
    if part.disposition == "attachment" or not (media or part.mime_type in (_TEXT, _HTML)):
        return False
    return index == 0 or (container != "related" and (media or not part.filename))


def _text_of(part: Part) -> str:
    return _lf(decode(part.content, part.charset))


def _html_of(part: Part) -> str:
    if part.mime_type == _TEXT:
        return f'<div style="white-space:pre-wrap">{escape(_text_of(part), quote=False)}</div>'
    charset = part.charset
    # For bytes beyond ASCII, "us-ascii" tells as little as no charset at all.
    if codec_for(charset or "") in (None, "ascii") and (match := _META_CHARSET.search(part.content, 0, 2048)):
        charset = match[1].decode("ascii", "replace")
    return sanitise(_lf(decode(part.content, charset)))


def _lf(text: str) -> str:
    # The decoder needs one pass, which takes less than half of the time of two replacements.
    return IncrementalNewlineDecoder(None, translate=True).decode(text, final=True) if "\r" in text else text


def _joined(texts: list[str]) -> str | None:
    if len(texts) < 2:
        return texts[0] if texts else None
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts[:-1]) + texts[-1]


def _content_ids(html: str) -> frozenset[str]:
    return frozenset(unquote(content_id) for content_id in _CID.findall(unescape(html)))


def _attachment(part: Part, shown: frozenset[str]) -> Attachment:
    filename = part.filename
    if filename is None and part.mime_type == "message/rfc822":
        filename = _message_name(part.content)
    return Attachment(filename, part.mime_type, part.content, part.content_id, part.content_id in shown)


def _message_name(message: bytes) -> str | None:
    """A file name for an attached message: its subject."""
    fields, _ = split_headers(message, 0, len(message))
    subject = next((value for name, value in fields if name.lower() == "subject"), "")
    subject = one_line(decode_value(subject)).replace("/", "_").replace("\\", "_")
    return file_name(f"{subject[:_SUBJECT_BYTES] or 'message'}.eml")
