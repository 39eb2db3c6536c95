"""The tree of parts: against the standard library's parser, and at its limits."""

from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tasks.mail.parse.message import without_envelope
from tasks.mail.parse.mime import MAX_DEPTH, MAX_PARTS, Part, read
from tests.unit.mail.parse.test_message import MESSAGES

Leaf = tuple[str, bytes | None]

# Where a message is read otherwise than the standard library reads it; a mail program shows what ours gives.
DIFFERENCES = {
    "base64_in_capitals_with_comment": "the library looks for the bare word base64",
    "boundary_never_used": "the library keeps the type of a multipart that has no parts",
    "boundary_declared_is_another": "the library keeps the type of a multipart that has no parts",
    "boundary_shared_with_attached_message": "the library ends the container where the attached message ends",
    "boundary_shared_by_three": "the library ends the outer multipart where the inner one ends",
    "boundary_shared_with_grandchild": "so too",
    "boundary_shared_with_inner": "so too",
    "boundary_parameter_missing": "the library does not look for the boundary",
    "content_type_with_comment": "the library takes the comment for the subtype",
    "content_type_without_semicolon": "the library reads no type and no parameters",
    "content_type_without_subtype": "a named file of no type is no text",
    "header_empty_line_first": "the library takes the header for text",
    "header_envelopes_inside": "the library ends the header at the first line that is no field",
    "header_first_field_indented": "the library drops the field",
    "header_gateway_note_first": "the library takes the header for text",
    "header_line_without_colon": "the library ends the header at the first line that is no field",
    "header_space_before_colon": "so too; RFC 5322 section 4.5 allows the space",
    "header_unfolded_lines": "so too",
    "line_ends_cr_cr_lf": "so too; the library counts two line ends",
    "multimedia_message": "ours puts the part first that a multipart/related is about",
    "part_header_after_note": "the library ends the header at the first line that is no field",
    "quoted_printable_broken": "the library keeps a soft line break that a gateway added spaces to",
    "related_root_at_start_parameter": "ours puts the part first that a multipart/related is about",
    "related_root_by_type": "so too",
    "related_root_last": "so too",
}


def leaves(part: Part) -> list[Leaf]:
    if part.parts is not None:
        return [leaf for child in part.parts for leaf in leaves(child)]
    return [(part.mime_type, None if part.mime_type.startswith("message/") else part.content)]


def library_leaves(message: Message) -> list[Leaf]:
    kind = message.get_content_type()
    if kind.startswith("message/"):
        return [(kind, None)]
    if message.is_multipart():
        return [leaf for child in message.get_payload() for leaf in library_leaves(child)]
    return [(kind, message.get_payload(decode=True))]


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_agrees_with_the_standard_library(path: Path) -> None:
    raw = without_envelope(path.read_bytes())
    message = message_from_bytes(raw)
    fields, root, _ = read(raw)
    same_names = [name for name, _ in fields] == message.keys()
    same_parts = leaves(root) == library_leaves(message)
    assert (same_names and same_parts) is (path.stem not in DIFFERENCES)


def nested(levels: int) -> bytes:
    return b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(levels)
    )


def test_deepest_parts_stay_in_one_piece() -> None:
    part = read(nested(10_000) + b"\r\nend")[1]
    levels = 0
    while part.parts:
        part = part.parts[0]
        levels += 1
    assert levels == MAX_DEPTH
    assert part.mime_type == "multipart/mixed"
    assert part.content.endswith(b"end")


def test_last_of_too_many_parts_holds_the_rest() -> None:
    part = read(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * (MAX_PARTS + 5))[1]
    assert part.parts is not None
    assert len(part.parts) == MAX_PARTS + 1
    assert part.parts[-1].content.count(b"--b") == 4


def test_containers_with_one_boundary_are_bounded_in_depth_and_lose_nothing() -> None:
    header = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    part = read(header * 1000 + b"\r\nend\r\n--b--\r\n")[1]
    levels = 0
    while part.parts:
        part = part.parts[-1]
        levels += 1
    assert 2 < levels <= MAX_DEPTH
    assert b"end" in part.content


def test_part_after_an_inner_container_without_parts() -> None:
    inner = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    part = read(inner + b"--b\r\n" + inner + b"--b--\r\n--b\r\n\r\nx\r\n--b--\r\n\r\n--b\r\n\r\nepilogue\r\n")[1]
    assert [(child.parts, child.content) for child in part.parts or ()] == [([], b""), (None, b"x")]


def test_attached_message_with_our_boundary_ends_where_it_closes() -> None:
    header = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    attached = header + b"--b\r\n\r\nx\r\n--b--\r\n"
    part = read(header + b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + attached + b"--b--\r\nepilogue")[1]
    assert [child.content for child in part.parts or ()] == [attached]


def test_uuencoded_line_with_junk_at_its_end() -> None:
    part = read(b"Content-Transfer-Encoding: uuencode\n\nbegin 644 x\n#8V%Tjunk\n`\nend\n")[1]
    assert part.content == b"cat"


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b"\nSee you there.\n", b"\nSee you there.\n"),
        (b"\n YWJj\n ZGVm \n", b"abcdef"),
        (b"YWJj \r\n \r\nZGVm", b"abcdef"),
    ],
)
def test_text_that_is_labelled_base64_and_is_not(body: bytes, content: bytes) -> None:
    part = read(b"Content-Transfer-Encoding: base64\n\n" + body)[1]
    assert part.content == content


def test_line_end_before_a_delimiter_belongs_to_it() -> None:
    part = read(b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\na\n\n--b\n\n\n--b\n--b--\n")[1]
    assert [child.content for child in part.parts or ()] == [b"a\n", b"", b""]
