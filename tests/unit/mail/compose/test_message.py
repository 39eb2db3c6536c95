"""Messages read back as they were meant, by our parser and by the standard library's, and fit any server."""

import email
import email.policy
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.mail.compose.message import Draft, compose
from tasks.mail.message import Address, Attachment
from tasks.mail.parse.message import parse

DATE = datetime(2026, 3, 2, 10, tzinfo=UTC)
ADA, BOB = Address("", "ada@example.org"), Address("Bob", "bob@example.net")
DRAFT = Draft(ADA, (BOB,), (), "Hello", "Hi.\n", None)
PNG = Attachment("p.png", "image/png", b"\x89PNG", "pic@x", True)

# What people type: any character but those that are none (lone surrogates), NUL, and what no mail client shows.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"]), max_size=300)


def composed(**changes: object) -> bytes:
    return compose(DRAFT._replace(**changes), "1@example.org", DATE)


def assert_fits_any_server(raw: bytes) -> None:
    assert raw.isascii()
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", raw)
    assert raw.endswith(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998


@given(subject=texts, name=texts, text=texts, html=st.none() | texts, filename=texts)
def test_what_is_written_is_read(subject: str, name: str, text: str, html: str | None, filename: str) -> None:
    file = Attachment(filename, "application/pdf", b"x", None, False)
    raw = composed(
        to=(Address(name, "bob@example.net"), *[Address(name, "eve@example.net")] * 5),
        subject=subject,
        text=text,
        html=html,
        attachments=(file,),
    )

    assert_fits_any_server(raw)
    ours = parse(raw)
    assert ours.subject == subject.strip()
    assert [box.name for box in ours.to] == [name.strip()] * 6
    assert [box.address for box in ours.to] == ["bob@example.net", *["eve@example.net"] * 5]
    if text:
        assert ours.text_body is not None
        assert ours.text_body.rstrip("\n") == text.rstrip("\n")
    theirs = email.message_from_bytes(raw, policy=email.policy.default)
    assert theirs.get_content_type() == "multipart/mixed"
    assert [part.defects for part in theirs.walk()] == [[]] * len(list(theirs.walk()))
    assert [address.addr_spec for address in theirs["to"].addresses][:2] == ["bob@example.net", "eve@example.net"]


@given(st.text(max_size=200))
def test_no_text_adds_a_header_field(text: str) -> None:
    raw = composed(subject=text, to=(Address(text, "bob@example.net"),), attachments=(PNG._replace(filename=text),))
    head = raw.partition(b"\r\n\r\n")[0]

    names = re.findall(rb"(?m)^([^\s:]+):", head)
    assert names == [b"From", b"To", b"Subject", b"Date", b"Message-ID", b"MIME-Version", b"Content-Type"]
    assert_fits_any_server(raw)


def test_an_injected_line_stays_in_its_subject() -> None:
    raw = composed(subject="Hello\r\nBcc: eve@example.net\r\n\r\nbody")

    assert b"Subject: Hello Bcc: eve@example.net body\r\n" in raw.replace(b"  ", b" ")


@pytest.mark.parametrize("filename", ["a\r\nX-Added: y.pdf", "a\nX-Added: y", "a\r\n\r\nX-Added: y", "a\rX-Added: é"])
def test_an_injected_line_stays_in_its_file_name(filename: str) -> None:
    raw = composed(attachments=(PNG._replace(filename=filename),))

    assert_fits_any_server(raw)
    assert not re.search(rb"(?m)^X-Added", raw)


def test_lines_of_encoded_words_have_76_characters_at_most() -> None:
    raw = composed(
        subject="Grüße aus München " * 20, to=tuple(Address("Jörg " * 30, "j@example.net") for _ in "12345")
    )
    head = raw.partition(b"\r\n\r\n")[0]

    assert max(map(len, head.split(b"\r\n"))) <= 76


def test_a_word_of_a_thousand_characters_is_cut() -> None:
    assert parse(composed(subject="x" * 5000)).subject == "x" * 5000
    assert_fits_any_server(composed(subject="x" * 5000, text="y" * 5000))


def test_the_structure_is_as_deep_as_it_must_be() -> None:
    def structure(raw: bytes) -> str:
        return " ".join(part.get_content_type() for part in email.message_from_bytes(raw).walk())

    pdf = Attachment("a.pdf", "application/pdf", b"x", None, False)
    shown = '<img src="cid:pic@x">'

    assert structure(composed()) == "text/plain"
    assert structure(composed(text="", html="<p>x")) == "text/html"
    assert structure(composed(text="")) == "text/plain"
    assert structure(composed(html="<p>x")) == "multipart/alternative text/plain text/html"
    assert structure(composed(html=shown, attachments=(PNG, pdf))) == (
        "multipart/mixed multipart/alternative text/plain multipart/related text/html image/png application/pdf"
    )
    # An inline image that nothing shows would not be seen
    assert structure(composed(html="<p>x", attachments=(PNG,))) == (
        "multipart/mixed multipart/alternative text/plain text/html image/png"
    )


def test_inline_images_are_found_by_the_html() -> None:
    message = parse(composed(html='<p><img src="cid:pic@x"></p>', attachments=(PNG,)))

    (image,) = message.attachments
    assert (image.content_id, image.is_inline, image.content) == ("pic@x", True, b"\x89PNG")


def test_a_forwarded_message_is_one_unless_it_would_have_to_be_encoded() -> None:
    def forwarded(content: bytes) -> Attachment:
        file = Attachment("m.eml", "message/rfc822", content, None, False)
        return parse(composed(attachments=(file,))).attachments[0]

    assert forwarded(b"Subject: x\n\nhi\n").mime_type == "message/rfc822"
    eight_bit = "Subject: x\n\nGrüße\n".encode()
    assert forwarded(eight_bit)[:3] == ("m.eml", "application/octet-stream", eight_bit)


def test_a_type_that_is_none_is_left_out() -> None:
    for bad in ("text", "a/b\r\nX: y", "multipart/mixed", "text/plain; charset=x", ""):
        (file,) = parse(composed(attachments=(PNG._replace(mime_type=bad),))).attachments
        assert file.mime_type == "application/octet-stream"


LONG = (
    "x" * 5000,
    "x y" * 2000,
    '"\\' * 3000,
    "é" * 3000,
    "日 " * 2000,
    "👍" * 1500,
    "=?utf-8?q?" * 500,
    "a@b," * 1500,
)


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:9])
def test_no_line_is_longer_than_may_be(text: str) -> None:
    """Whatever a caller says, and a stored attachment has."""
    longest_type = "a" * 127 + "/" + "b" * 127
    files = (
        Attachment(text, text, b"x", text, True),
        Attachment(f"{text}.pdf", f"{text[:900]}/{text[:900]}", b"x", "c" * 900, True),
        Attachment("a.pdf", longest_type, b"x", "c" * 901, True),
        Attachment(None, longest_type, b"x", "c" * 2000, False),
        Attachment("b.pdf", "image/png", b"x", text, False),
        Attachment(None, "a" * 900 + "/" + "b" * 127, b"x", None, False),
        Attachment(None, "a" * 127 + "/" + "b" * 900, b"x", None, False),
    )
    longest = "l" * 64 + "@" + ".".join(["d" * 60] * 3) + ".ex"
    boxes = (*(Address(name, longest) for name in ("", text, text[:75])), *[Address(text[:20], longest)] * 3)
    html = f'<p>{text}</p><img src="cid:{text}"><img src="cid:{"c" * 900}"><img src="cid:{"c" * 2000}">'
    raw = composed(sender=boxes[1], to=boxes, cc=boxes[:1], subject=text, text=text, html=html, attachments=files)

    assert_fits_any_server(raw)
    theirs = email.message_from_bytes(raw, policy=email.policy.default)
    parts = [part for part in theirs.walk() if not part.is_multipart()]
    assert len(parts) == len(files) + 2
    assert {part["Content-ID"] for part in parts} == {None, f"<{'c' * 900}>"}
    ours = parse(raw)
    assert len(ours.attachments) == len(files)
    assert ours.subject == text.strip()
    assert [box.address for box in ours.to] == [longest] * len(boxes)


def test_a_picture_whose_content_id_cannot_be_said_goes_along_as_a_file() -> None:
    for content_id in ("c" * 901, "a b", "a>b", "é"):
        png = PNG._replace(content_id=content_id)
        raw = composed(html=f'<img src="cid:{content_id}">', attachments=(png,))
        assert b"multipart/mixed" in raw
        assert b"multipart/related" not in raw
        assert parse(raw).attachments[0].filename == "p.png"


def test_without_to_and_cc_nobody_is_named() -> None:
    assert b"To: undisclosed-recipients:;\r\n" in composed(to=())


def test_text_is_readable_where_it_can_be() -> None:
    assert b"Content-Transfer-Encoding: 7bit\r\n\r\nHi.\r\n" in composed()
    assert b"quoted-printable" in composed(text="Grüße aus München und mehr, das keine Umlaute hat")
    assert b"base64" in composed(text="日本語" * 10)
    assert b"quoted-printable" in composed(text="a\0b\x07c")


def test_line_ends_of_all_kinds_are_one() -> None:
    assert parse(composed(text="a\rb\nc\r\nd")).text_body == "a\nb\nc\nd\n"


def test_the_same_draft_gives_the_same_bytes() -> None:
    everything = {"html": '<img src="cid:pic@x">', "attachments": (PNG, PNG._replace(content_id=None))}

    assert composed(**everything) == composed(**everything)
