"""The tree of parts of a message (RFC 2045, RFC 2046), read as mail programs read broken ones.

Positions into the message are passed down and only leaves are copied out, so the cost is linear in the size of
the message for each level of nesting, and the levels are bounded.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from tasks.mail.parse.charset import charset_of, codec_for
from tasks.mail.parse.file_names import file_name
from tasks.mail.parse.header_section import Field, split_headers
from tasks.mail.parse.headers import decode_value, has_raw, one_line
from tasks.mail.parse.parameters import Parameters, media_type, text_parameter, with_parameters
from tasks.mail.parse.transfer import decoded

# Limits of depth and number: a part beyond them is not taken apart, and counts as one file of its container.
MAX_DEPTH = 64
MAX_PARTS = 10_000
# How much of a part is searched for its Content-Type before its header is read.
_MAX_HEAD_LENGTH = 2000

_SOME_BOUNDARY = re.compile(rb"\n--([^\s][^\r\n]{0,199})\r?\n")
_BOUNDARY_OF_PART = re.compile(rb"\n--([^\s][^\r\n]{0,199})\r?\n(?=content-[a-z-]{1,40}[ \t]*:)", re.IGNORECASE)
_DECLARED_BOUNDARY = re.compile(rb"boundary\s*=\s*(?:\"([^\"\r\n]{0,200})\"|\"?([^\s;\"]{1,200}))", re.IGNORECASE)
_END_OF_DELIMITER = re.compile(rb"(--)?[ \t]*+\r*+(?:\n|\Z)")
# The layout of a multimedia message from a phone (MMS): pictures and texts, one after the other.
_SMIL = frozenset({"application/smil", "application/smil+xml"})


class _Segment(NamedTuple):
    """The place of a part between two delimiter lines, where the
    second line ends, and whether that is the closing delimiter."""

    start: int
    stop: int
    after: int
    closed: bool


class Part(NamedTuple):
    """A node of the tree: a container has `parts`, a leaf has None there and `content`, transfer-decoded.

    `mime_type` and `disposition` are in lower case, the latter empty where there is none.
    """

    mime_type: str
    charset: str | None
    disposition: str
    filename: str | None
    content_id: str | None
    content: bytes
    parts: list["Part"] | None


def read(data: bytes) -> tuple[list[Field], Part, str | None]:
    """The header fields of a message, unfolded but not decoded, its tree of parts, and the charset of raw characters
    that should have been encoded. Never raises.
    """
    fields, body = split_headers(data, 0, len(data))
    reader = _Reader(data, "windows-1252")
    root = reader.entity(fields, body, len(data), "text/plain", 0)
    raw = "\n".join([*(value for _, value in fields), *reader.raw_names])
    charset = charset_of(raw.encode("latin-1"), _declared_charset(root)) if has_raw(raw) else _declared_charset(root)
    if reader.raw_names:
        # Read again with the charset of the text, because a raw
        # file name may come before the text that names the charset.
        root = _Reader(data, charset).entity(fields, body, len(data), "text/plain", 0)
    return fields, root, charset


def _declared_charset(root: Part) -> str | None:
    """The charset of the first text whose charset is beyond ASCII."""
    texts = (part for part in _leaves(root) if part.charset and part.mime_type.startswith("text/"))
    return next((part.charset for part in texts if codec_for(part.charset or "") not in (None, "ascii")), None)


def _leaves(part: Part) -> Iterator[Part]:
    waiting = [part]
    while waiting:
        part = waiting.pop()
        if part.parts is None:
            yield part
        else:
            waiting.extend(reversed(part.parts))


class _Reader:
    def __init__(self, data: bytes, charset: str | None) -> None:
        self.data = data
        self.charset = charset
        self.raw_names: list[str] = []
        self.parts_left = MAX_PARTS

    @cached_property
    def declared(self) -> dict[bytes, list[int]]:
        """The positions at which each boundary is declared, ascending.

        Found once, because there may be many levels.
        """
        places: dict[bytes, list[int]] = {}
        for match in _DECLARED_BOUNDARY.finditer(self.data):
            boundary = match[1] if match[1] is not None else match[2]
            places.setdefault(boundary.rstrip(), []).append(match.start())
        return places

    def entity(self, fields: list[Field], body: int, end: int, default_type: str, depth: int) -> Part:
        """The part with these header fields whose body is `data[body:end]`."""
        content = _content_fields(fields)
        encoding = content.get("content-transfer-encoding", "")
        value, parameters = with_parameters(content.get("content-type", default_type))
        if value.startswith("multipart/") and depth < MAX_DEPTH:
            parts = self._parts(value, parameters, body, end, depth)
            if parts is not None:
                return _container(value, parameters, parts)
            # A multipart without its delimiters is read as text, as RFC 2045 section 5.2 says of invalid types.
            value = "text/plain"
        disposition, filename = "", None
        if "content-disposition" in content:
            disposition, named = with_parameters(content["content-disposition"])
            filename = self._name(named, "filename")
        if filename is None and parameters:
            filename = self._name(parameters, "name")
        if media_type(value) is None:
            value = "application/octet-stream" if filename or disposition == "attachment" else "text/plain"
        return Part(
            value,
            parameters.get("charset"),
            disposition,
            file_name(filename),
            _content_id(content.get("content-id")),
            decoded(self.data, body, end, encoding),
            None,
        )

    def _name(self, parameters: Parameters, name: str) -> str | None:
        text = text_parameter(parameters, name, self.charset)
        if text and not text.isascii():
            self.raw_names += filter(has_raw, parameters.values())
        return text

    def _parts(self, value: str, parameters: Parameters, body: int, end: int, depth: int) -> list[Part] | None:
        boundary = parameters.get("boundary", "").rstrip(" \t")
        delimiter = boundary.encode("latin-1") or self._guessed_boundary(_SOME_BOUNDARY, body, end)
        segments = self._segments(b"--" + delimiter, body, end) if delimiter else None
        if segments is None and boundary:
            # A program on the way has changed the boundary in the header or in the delimiters.
            delimiter = self._guessed_boundary(_BOUNDARY_OF_PART, body, end)
            segments = self._segments(b"--" + delimiter, body, end) if delimiter else None
        if segments is None:
            return None
        default_type = "message/rfc822" if value == "multipart/digest" else "text/plain"
        parts = []
        for start, stop in self._without_shared(segments, delimiter, end):
            fields, part_body = split_headers(self.data, start, stop, of_part=True)
            parts.append(self.entity(fields, part_body, stop, default_type, depth + 1))
        return parts

    def _without_shared(self, segments: list[_Segment], delimiter: bytes, end: int) -> Iterator[tuple[int, int]]:
        """Where the parts lie, up to the closing delimiter.

        If a container inside, at any depth, uses the same boundary, its parts are among `segments` too, up to its own
        closing delimiter. They are skipped; the segments after them belong to this container again.
        """
        number = 0
        while number < len(segments):
            start, stop, after, closed = segments[number]
            number += 1
            levels = self._declarations(delimiter, start, stop)
            if not levels:
                yield start, stop
                if closed:
                    return
                continue
            levels -= closed
            while levels > 0 and number < len(segments):
                inner_start, inner_stop, after, closed = segments[number]
                levels += self._declarations(delimiter, inner_start, inner_stop) - closed
                number += 1
            if number < len(segments):
                line = self.data.rfind(b"--" + delimiter, after, segments[number].start)
                yield start, _before_line_end(self.data, line)
            else:
                yield start, end if levels > 0 else after

    def _declarations(self, delimiter: bytes, start: int, stop: int) -> int:
        """How many containers inside the part at `data[start:stop]` declare the same boundary."""
        head = self.data[start : start + _MAX_HEAD_LENGTH].lower()
        if b"multipart" not in head and b"message" not in head:
            return 0
        if self.data.find(delimiter, start, stop) < 0:
            return 0
        places = self.declared.get(delimiter, [])
        return bisect_left(places, stop) - bisect_left(places, start)

    def _segments(self, delimiter: bytes, start: int, end: int) -> list[_Segment] | None:
        """The segments between delimiter lines (RFC 2046 section 5.1.1), or None without such a line."""
        data = self.data
        segments: list[_Segment] = []
        opened: int | None = None
        seen = False
        position = start
        while self.parts_left > 0 and (found := data.find(delimiter, position, end)) >= 0:
            position = found + len(delimiter)
            if found > start and data[found - 1] != 0x0A:
                continue
            match = _END_OF_DELIMITER.match(data, position, end)
            if match is None:
                continue
            seen = True
            closes = match[1] is not None
            if opened is not None:
                self.parts_left -= 1
                stop = max(opened, _before_line_end(data, found))
                segments.append(_Segment(opened, stop, match.end(), closes))
            opened = None if closes else match.end()
        if opened is not None:
            segments.append(_Segment(opened, end, end, False))
        return segments if seen else None

    def _guessed_boundary(self, pattern: re.Pattern[bytes], body: int, end: int) -> bytes:
        """The boundary of the first line that looks like a delimiter."""
        match = pattern.search(self.data, max(0, body - 1), end)
        return match[1].rstrip() if match else b""


def _content_fields(fields: list[Field]) -> dict[str, str]:
    """The MIME fields by lower-case name. If a field occurs several times, the first counts."""
    return {
        name.lower(): value for name, value in reversed(fields) if name[0] in "Cc" and name[:8].lower() == "content-"
    }


def _container(value: str, parameters: Parameters, parts: list[Part]) -> Part:
    """A container. The root of a multipart/related becomes its first part, wherever the sender put it."""
    if any(part.mime_type in _SMIL for part in parts):
        value = "multipart/mixed"
        parts = [part._replace(filename=None) if _shows_text(part) else part for part in parts]
        root = _root({}, parts)
    else:
        root = _root(parameters, parts) if value == "multipart/related" else 0
    if root:
        parts = [parts[root], *parts[:root], *parts[root + 1 :]]
    return Part(value, None, "", None, None, b"", parts)


def _root(parameters: Parameters, parts: list[Part]) -> int:
    """Where the root of a multipart/related is (RFC 2387): at `start`, else the first of `type`, else of any text."""
    start, kind = parameters.get("start", "").strip("<> "), parameters.get("type", "").lower()
    texts = [number for number, part in enumerate(parts) if _shows_text(part)]
    named = [number for number in texts if start and parts[number].content_id == start]
    typed = [number for number in texts if kind and _shows_text(parts[number], kind)]
    return next(iter(named or typed or texts), 0)


def _shows_text(part: Part, kind: str = "") -> bool:
    """Whether a mail program shows this part as text or HTML; with `kind`, only parts of that type count."""
    if part.parts is not None:
        return part.mime_type == kind or any(_shows_text(child, kind) for child in part.parts)
    if kind and part.mime_type != kind:
        return False
    return part.mime_type in ("text/plain", "text/html") and part.disposition != "attachment"


def _before_line_end(data: bytes, position: int) -> int:
    """The position before the line end that precedes a delimiter, because that line end belongs to the delimiter."""
    position -= 1
    return position - 1 if data[position - 1 : position] == b"\r" else position


def _content_id(value: str | None) -> str | None:
    return (one_line(decode_value(value)).strip("<> ") or None) if value else None
