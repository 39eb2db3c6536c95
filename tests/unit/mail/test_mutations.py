"""Each message of tests/fixtures/mail damaged in every way below: what the damage did not touch is read as before.

A mutation gives the damaged message, or None where it cannot be applied, and says which values may change with it.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tasks.mail.parse.message import parse
from tests.unit.mail.parse.test_message import EMPTY, MESSAGES, readable

FIELDS = frozenset(EMPTY)
# Headers are compared as well, but for the fields that describe the structure.
BODIES = frozenset({"text_body", "html_body", "attachments"})

HEADER_END = re.compile(rb"\r?\n\r?\n")
FIRST_FIELD = re.compile(rb"[^\n]+\n(?:[ \t][^\n]*\n)*")
FIELD_NAME = re.compile(rb"^([A-Za-z-]+):", re.MULTILINE)
PLAIN_HEADER = re.compile(rb"(?:[A-Za-z-]+:[^\r\n]*\r\n(?:[ \t]+[^\s][^\r\n]*\r\n)*)+\r\n")
TYPE = re.compile(rb"(?i)^(content-type:[ \t]*)([a-z]+/[a-z0-9.+-]+)([ \t]*;)?", re.MULTILINE)
BOUNDARY = re.compile(rb'(?i)boundary="?([^"\s;]+)"?')
CHARSET = re.compile(rb"(?i)(charset=)([a-z0-9_-]+)")
_FIELD = rb"content-[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*"
NOTE = b"Scanned by the gateway of one.example\r\n"


class Mutation(NamedTuple):
    """How a message is damaged, and which values may be others then."""

    damage: Callable[[bytes], bytes | None]
    may_change: frozenset[str] = frozenset()


def header_of(raw: bytes) -> bytes | None:
    """The header of a message whose header is sound, without the empty line."""
    match = PLAIN_HEADER.match(raw)
    return match[0][:-2] if match and match.end() < len(raw) else None


def first(text: bytes) -> Callable[[bytes], bytes | None]:
    """`text` before the header."""
    return lambda raw: text + raw if header_of(raw) else None


def inside(text: bytes) -> Callable[[bytes], bytes | None]:
    """`text` after the first field, where fields that mail has follow."""

    def damage(raw: bytes) -> bytes | None:
        header = header_of(raw)
        at = FIRST_FIELD.match(raw)
        if header is None or at is None or at.end() >= len(header):
            return None
        return raw[: at.end()] + text + raw[at.end() :]

    return damage


def on_header(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes | None]:
    """A change of all of the header."""

    def damage(raw: bytes) -> bytes | None:
        header = header_of(raw)
        return change(header) + raw[len(header) :] if header else None

    return damage


def on_boundaries(change: Callable[[bytes, list[bytes]], bytes | None]) -> Callable[[bytes], bytes | None]:
    """A change of a message of several parts whose boundaries are declared and used."""

    def damage(raw: bytes) -> bytes | None:
        boundaries = BOUNDARY.findall(raw)
        if header_of(raw) is None or not boundaries or len(set(boundaries)) < len(boundaries):
            return None
        if not all(raw.count(b"--" + boundary) >= 2 for boundary in boundaries):
            return None
        return change(raw, boundaries)

    return damage


def one_boundary(raw: bytes, boundaries: list[bytes]) -> bytes | None:
    """The same for all levels, which only works where each level is closed."""
    if len(boundaries) < 2 or not is_closed(raw, boundaries):
        return None
    names = b"|".join(re.escape(boundary) for boundary in sorted(boundaries, key=len, reverse=True))
    raw = re.sub(rb"(?m)^--(?:%b)(--)?(?=[ \t]*\r?$)" % names, rb"--=_same\1", raw)
    return re.sub(rb'(?i)boundary="?(?:%b)"?(?=[\s;])' % names, b'boundary="=_same"', raw)


def without_last_line(raw: bytes, boundaries: list[bytes]) -> bytes | None:
    closing = b"\r\n--" + boundaries[0] + b"--"
    return raw.rstrip().removesuffix(closing) if is_closed(raw, boundaries) else None


def another_boundary(raw: bytes, boundaries: list[bytes]) -> bytes | None:
    """Declared, where the first part has fields that say what the delimiter is."""
    if b"--" + boundaries[0] + b"\r\nContent-" not in raw:
        return None
    return BOUNDARY.sub(b'boundary="=_another"', raw, count=1)


def preamble_and_epilogue(raw: bytes, boundaries: list[bytes]) -> bytes | None:
    if not is_closed(raw, boundaries):
        return None
    return HEADER_END.sub(b"\r\n\r\nThis is MIME.\r\n\r\n", raw, count=1) + b"\r\nbye\r\n"


def in_parts(text: bytes, where: bytes) -> Callable[[bytes], bytes | None]:
    """`text` in the headers of parts: after `where`, which begins behind the delimiter, before a field of MIME."""

    def change(raw: bytes, boundaries: list[bytes]) -> bytes:
        names = b"|".join(map(re.escape, boundaries))
        return re.sub(rb"(?mi)(^--(?:%b)[ \t]*\r\n%b)(?=content-)" % (names, where), lambda m: m[0] + text, raw)

    return on_boundaries(change)


def is_closed(raw: bytes, boundaries: list[bytes]) -> bool:
    return all(raw.count(b"\n--" + boundary + b"--") == 1 for boundary in boundaries)


def cut(share: float) -> Callable[[bytes], bytes | None]:
    """The header and `share` of the rest."""

    def damage(raw: bytes) -> bytes | None:
        header = header_of(raw)
        return raw[: len(header) + 2 + int((len(raw) - len(header)) * share)] if header else None

    return damage


def within_mixed(raw: bytes, kind: bytes = b"multipart/mixed") -> bytes | None:
    """The whole body as the first part of a container, a file behind it."""
    header = header_of(raw)
    if header is None:
        return None
    fields = FIRST_FIELD.findall(header)
    content = [field for field in fields if field.lower().startswith(b"content-")]
    others = [field for field in fields if not field.lower().startswith(b"content-")]
    file = b'Content-Type: application/pdf; name="added.pdf"\r\n\r\n%PDF\r\n'
    return (
        b"".join(others)
        + b'Content-Type: %b; boundary="=_added"\r\n\r\n--=_added\r\n' % kind
        + b"".join(content)
        + raw[len(header) :]
        + b"\r\n--=_added\r\n"
        + file
        + b"--=_added--\r\n"
    )


def lines(end: bytes) -> Callable[[bytes], bytes | None]:
    """Other line ends in all of a message of text."""
    return lambda raw: raw.replace(b"\r\n", end) if header_of(raw) and raw.isascii() else None


def alternating_line_ends(raw: bytes) -> bytes | None:
    if header_of(raw) is None or not raw.isascii():
        return None
    rows = raw.split(b"\r\n")
    return b"".join(row + (b"\n" if number % 2 else b"\r\n") for number, row in enumerate(rows[:-1])) + rows[-1]


MUTATIONS: dict[str, Mutation] = {
    # Before the header.
    "line of spaces first": Mutation(first(b"   \r\n")),
    "first field indented": Mutation(first(b" ")),
    "envelope without date first": Mutation(first(b"From ada@one.example\r\n")),
    "envelope first": Mutation(first(b"From ada@one.example Mon Mar  3 10:00:00 2025\r\n")),
    "two envelopes first": Mutation(first(b"From a@b Mon Mar  3 10:00:00 2025\r\n>From a@b\r\n")),
    "note first": Mutation(first(NOTE)),
    "byte order mark first": Mutation(first(b"\xef\xbb\xbf")),
    "status line first": Mutation(first(b"HTTP/1.1 200 OK\r\n")),
    # In the header.
    "note inside": Mutation(inside(NOTE)),
    "unfolded lines inside": Mutation(inside(b"by mx.one.example with SMTP\r\nid 7\r\n for you\r\n")),
    "envelope inside": Mutation(inside(b">From ada@one.example Mon Mar  3 10:00:00 2025\r\n")),
    "line of spaces inside": Mutation(inside(b" \t \r\n")),
    "name of other letters inside": Mutation(inside("Größe: 7\r\n".encode())),
    "field added": Mutation(inside(b"X-Added: 1\r\n"), frozenset({"headers"})),
    "blanks before colons": Mutation(on_header(lambda header: FIELD_NAME.sub(rb"\1 \t:", header))),
    "names in capitals": Mutation(on_header(lambda header: FIELD_NAME.sub(lambda name: name[0].upper(), header))),
    "folded after names": Mutation(on_header(lambda header: FIELD_NAME.sub(rb"\1:\r\n", header))),
    "line of spaces at the end": Mutation(on_header(lambda header: header + b" \r\n")),
    "CR CR LF in the header": Mutation(on_header(lambda header: header.replace(b"\r\n", b"\r\r\n"))),
    "LF in the header": Mutation(on_header(lambda header: header.replace(b"\r\n", b"\n"))),
    # Line ends.
    "LF": Mutation(lines(b"\n"), frozenset({"attachments"})),
    "CR": Mutation(lines(b"\r"), frozenset({"attachments"})),
    "CR LF and LF in turn": Mutation(alternating_line_ends, frozenset({"attachments"})),
    # Labels.
    "types in capitals": Mutation(lambda raw: TYPE.sub(lambda label: label[0].upper(), raw)),
    "types with comments": Mutation(lambda raw: TYPE.sub(rb"\1\2 (so they say)\3", raw)),
    "types without semicolons": Mutation(lambda raw: TYPE.sub(rb"\1\2", raw)),
    "types with blanks": Mutation(
        lambda raw: TYPE.sub(lambda m: m[1] + m[2].replace(b"/", b" / ") + (m[3] or b""), raw)
    ),
    "types with two semicolons": Mutation(lambda raw: TYPE.sub(rb"\1\2;\3", raw)),
    "types quoted": Mutation(lambda raw: TYPE.sub(rb'\1"\2"\3', raw)),
    "charsets in capitals": Mutation(lambda raw: CHARSET.sub(lambda label: label[1] + label[2].upper(), raw)),
    "charsets quoted": Mutation(lambda raw: CHARSET.sub(rb'\1"\2"', raw)),
    "charsets with blanks": Mutation(lambda raw: CHARSET.sub(rb"\1 \2 ", raw)),
    "dispositions without semicolons": Mutation(
        lambda raw: re.sub(rb"(?im)^(content-disposition:[ \t]*[a-z]+);", rb"\1", raw)
    ),
    "dispositions in capitals": Mutation(
        lambda raw: re.sub(rb"(?im)^content-disposition:[ \t]*[a-z]+", lambda label: label[0].upper(), raw)
    ),
    "MIME-Version missing": Mutation(
        lambda raw: re.sub(rb"(?i)\r\nMIME-Version:[^\r\n]*", b"", raw, count=1), frozenset({"headers"})
    ),
    "transfer encodings in capitals": Mutation(
        lambda raw: re.sub(rb"(?im)^content-transfer-encoding:.*$", lambda label: label[0].upper(), raw)
    ),
    "transfer encodings with comments": Mutation(
        lambda raw: re.sub(rb"(?im)^(content-transfer-encoding:[^\r\n]*)", rb"\1 (they say)", raw)
    ),
    # Boundaries.
    "blanks after delimiters": Mutation(
        on_boundaries(
            lambda raw, found: re.sub(
                rb"(?m)^(--(?:%b)(?:--)?)\r$" % b"|".join(map(re.escape, found)), rb"\1 \t\r", raw
            )
        )
    ),
    "one boundary for all": Mutation(on_boundaries(one_boundary)),
    "not closed": Mutation(on_boundaries(without_last_line)),
    "declared boundary never used": Mutation(on_boundaries(another_boundary)),
    "boundary parameter missing": Mutation(
        on_boundaries(lambda raw, found: re.sub(rb'(?i);?[ \t\r\n]*boundary="?[^"\s;]+"?', b"", raw, count=1))
    ),
    "preamble and epilogue": Mutation(on_boundaries(preamble_and_epilogue)),
    # In the headers of parts.
    "note first in parts": Mutation(in_parts(NOTE, b"")),
    "line of spaces first in parts": Mutation(in_parts(b" \t\r\n", b"")),
    "first field of parts indented": Mutation(in_parts(b" ", b"")),
    "note inside headers of parts": Mutation(in_parts(NOTE * 2, _FIELD)),
    "line of spaces inside headers of parts": Mutation(in_parts(b" \r\n", _FIELD)),
    # Around it.
    "first of two parts": Mutation(within_mixed, frozenset({"attachments"})),
    "in a related without root": Mutation(
        lambda raw: within_mixed(raw, b"multipart/related"), frozenset({"attachments"})
    ),
    # Cut off.
    "only the header": Mutation(cut(0), BODIES),
    "a third": Mutation(cut(0.33), BODIES),
    "nine tenths": Mutation(cut(0.9), BODIES),
}
_AGAIN = {"headers_duplicated": "a second Subject after a line that is no field is somebody's quotation"}
_TEXT = "what follows an empty line is a header only where machines wrote it"
# What is not as before, and why that is right.
EXCEPTIONS: dict[str, dict[str, str]] = {
    **{name: _AGAIN for name in MUTATIONS if name.endswith(" inside")},
    "MIME-Version missing": {"header_empty_line_first": _TEXT, "header_gateway_note_first": _TEXT},
}


def values(raw: bytes) -> dict[str, Any]:
    found = readable(parse(raw))
    found["headers"] = {
        name.lower(): texts for name, texts in found["headers"].items() if not name.lower().startswith("content-")
    }
    # An attached message is kept as it came, with the damage inside.
    found["attachments"] = [
        {"filename": file["filename"]} if file["mime_type"].startswith("message/") else file
        for file in found["attachments"]
    ]
    return found


@pytest.fixture(scope="module")
def unharmed() -> dict[str, tuple[bytes, dict[str, Any]]]:
    return {path.stem: (path.read_bytes(), values(path.read_bytes())) for path in MESSAGES}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_the_damage_did_not_touch(name: str, unharmed: dict[str, tuple[bytes, dict[str, Any]]]) -> None:
    mutation, applied, wrong = MUTATIONS[name], 0, {}
    for stem, (raw, before) in unharmed.items():
        damaged = mutation.damage(raw)
        if damaged is None or damaged == raw:
            continue
        applied += 1
        after = values(damaged)
        changed = {key for key in before if key not in mutation.may_change and before[key] != after[key]}
        if changed:
            wrong[stem] = changed
    assert applied >= 5
    assert set(wrong) == set(EXCEPTIONS.get(name, {})), wrong


def test_messages_are_damaged_in_many_ways(unharmed: dict[str, tuple[bytes, dict[str, Any]]]) -> None:
    ways = [
        sum(mutation.damage(raw) not in (None, raw) for mutation in MUTATIONS.values())
        for raw, _ in unharmed.values()
    ]
    assert len([count for count in ways if count >= 20]) >= 90
