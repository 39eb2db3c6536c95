"""No bytes stop the parser: nothing is raised, nothing hangs, and PostgreSQL takes what comes out."""

import json
import time
import timeit
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.mail.message import ParsedMessage
from tasks.mail.parse.message import parse
from tests.unit.mail.parse.test_message import MESSAGES

CORPUS = [path.read_bytes() for path in MESSAGES]
FRAGMENTS = [
    b"=?", b"?=", b"=?utf-8?Q?", b"=?x?B?",
    b"\r\n", b"\n", b"\r", b"\x00", b"\xff", b"\xed\xa0\x80", b'"', b"\\", b"(",
    b")", b"<", b">", b",", b";", b":", b"@", b"--", b"--b\r\n", b"--m--\r\n", b"Content-Type: ", b"multipart/mixed",
    b"; boundary=m", b"; charset=utf-7", b"; charset=utf-16", b"; filename*0*=x'y'%", b"message/rfc822",
    b"Content-Transfer-Encoding: base64\r\n", b"Content-Transfer-Encoding: quoted-printable\r\n", b"+2AA-", b"&#0;",
    b"&#xD800;", b"<script", b"<!--", b"Date: ", b"To: ", b"References: <",
]  # fmt: skip


def check(message: ParsedMessage) -> None:
    text = json.dumps(message._replace(date=None, attachments=()), ensure_ascii=False)
    text += json.dumps(
        [attachment._replace(content=b"")._asdict() | {"content": 0} for attachment in message.attachments]
    )
    text.encode()
    assert "\0" not in text
    assert "\\u0000" not in text.replace("\\\\", "")
    if message.date is not None:
        assert message.date.utcoffset() == timedelta()
        assert 1969 <= message.date.year <= 2200


@given(st.binary(max_size=2000))
def test_random_bytes(raw: bytes) -> None:
    check(parse(raw))


@st.composite
def damaged_messages(draw: st.DrawFn) -> bytes:
    """A message of the corpus, cut, spliced with another one, and strewn with what parsers stumble over."""
    first, second = draw(st.sampled_from(CORPUS)), draw(st.sampled_from(CORPUS))
    raw = first[: draw(st.integers(0, len(first)))] + second[draw(st.integers(0, len(second))) :]
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(raw)))
        gap = draw(st.integers(0, 4))
        raw = raw[:at] + draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=4)) + raw[at + gap :]
    return raw


@settings(max_examples=400, deadline=timedelta(seconds=2), suppress_health_check=[HealthCheck.too_slow])
@given(damaged_messages())
def test_damaged_messages(raw: bytes) -> None:
    check(parse(raw))


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_every_beginning_of_a_message(path) -> None:
    raw = path.read_bytes()
    for end in range(0, len(raw), 7):
        check(parse(raw[:end]))


HTML = b"Content-Type: text/html\r\n\r\n"
# Each is linear in n.
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "multiparts in each other": lambda n: b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(n)
    ),
    "multiparts with one boundary": lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * n,
    "multiparts with one boundary, closed": lambda n: (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * n + b"--b--\r\n" * n
    ),
    "parts without header": lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + b"x\r\n" * n,
    "parts": lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * n,
    "nearly delimiters": lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--bb\r\n" * n,
    "header fields": lambda n: b"".join(b"A%d: b\r\n" % i for i in range(n)),
    "header fields of one name": lambda n: b"To: a@b, c@d\r\n" * n,
    "8-bit header fields": lambda n: b"A: caf\xe9 \x81\r\n" * n,
    "lines without colon": lambda n: b"A: b\r\n" + b"junk\r\nX-B: c\r\n" * n,
    "lines without colon only": lambda n: b"A: b\r\n" + b"junk\r\n" * n,
    "lines without colon first": lambda n: b"junk\r\n" * n + b"To: b\r\n",
    "lines of spaces in the header": lambda n: b"A: b\r\n" + b" \r\n\tc\r\n" * n,
    "lines of spaces in the header and its end": lambda n: b"A: b\r\n" + b" \r\n\tc\r\n" * n + b"\r\n",
    "empty lines first": lambda n: b"\r\n" * n + b"From: b\r\n" * n,
    "carriage returns in a field": lambda n: b"A: b\r\nA: " + b"\rTo: b" * n + b"\r" * n + b"c\r\n\r\n",
    "folds": lambda n: b"A: b\r\n" + b" c\r\n" * n,
    "carriage returns": lambda n: b"A: b" + b"\r" * n + b"\n\n" + b"\r" * n,
    "spaces": lambda n: b"To: a" + b" " * n + b"b\r\nSubject: a" + b" " * n + b"b\r\n\r\n",
    "spaces in Content-Type": lambda n: (
        b"Content-Type: a" + b" " * n + b"(;" + b" " * n + b"b" + b" " * n + b"\r\n\r\n"
    ),
    "parameters": lambda n: b"Content-Type: a/b" + b";a=b" * n + b"\r\n\r\n",
    "parameters without semicolons": lambda n: (
        b"Content-Type: a/b" + b" name=b" * n + b" charset   " * n + b"\r\n\r\n"
    ),
    "blanks in parameters": lambda n: b"Content-Type: a/b; name=" + b", " * n + b"x-" + b"a" * n + b"\r\n\r\n",
    "continuations": lambda n: (
        b"Content-Type: a/b" + b"".join(b"; name*%d*=%%41" % i for i in range(n)) + b"\r\n\r\n"
    ),
    "encoded words never closed": lambda n: b"Subject: " + b"=?a?q?" * n + b"\r\n\r\n",
    "encoded words of two charsets": lambda n: b"Subject: " + b"=?x?q?=FF?= =?y?q?=FE?= " * n + b"\r\n\r\n",
    "addresses": lambda n: b"To: " + b"A <a@b>, " * n + b"\r\n\r\n",
    "dotted words": lambda n: b"To: " + b"a . " * n + b"@b\r\n\r\n",
    "names after addresses": lambda n: b"To: " + b"<a@b> c " * n + b"\r\n\r\n",
    "escapes": lambda n: b"Subject: " + b"\x1b$B!!\x1b(B" * n + b"\r\n\r\n" + b"\x1b$B\n" * n,
    "raw file names": lambda n: (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\nContent-Type: a/b; name=\xc4\xe3\r\n\r\n" * n
    ),
    "parentheses": lambda n: b"To: " + b"(" * n + b"\r\n\r\n",
    "comments": lambda n: b"To: " + b"(a)" * n + b"\r\n\r\n",
    "quoted pairs": lambda n: b"To: " + b'"\\' * n + b"\r\n\r\n",
    "quoted strings": lambda n: b"To: " + b'""' * n + b"\r\n\r\n",
    "angles": lambda n: b"To: " + b"<a," * n + b"\r\n\r\n",
    "colons after an address": lambda n: b"To: " + b"a " * n + b"a@" + b": " * n + b"\r\n\r\n",
    "references": lambda n: b"References: " + b"<a@b> " * n + b"\r\n\r\n",
    "bad base64": lambda n: b"Content-Transfer-Encoding: base64\r\n\r\n" + b"A*=" * n,
    "bad quoted-printable": lambda n: (
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"= " * n + b"=" + b" " * n
    ),
    "8-bit text": lambda n: b"Content-Type: text/plain\r\n\r\n" + b"caf\xe9 \x81\xff" * n,
    "HTML nested": lambda n: HTML + b"<div>" * n,
    "HTML nested and not closed": lambda n: HTML + b"<x><div></x></div>" * n,
    "HTML misnested": lambda n: HTML + b"<b>" * n + b"<p></b>" * n,
    "HTML attributes": lambda n: HTML + b"<a " + b"".join(b"x%d=1 " % i for i in range(n)) + b">",
    "HTML attributes behind a quote": lambda n: (
        HTML + b'<!-- <a b=" --><a b="</style><p ' + b"".join(b"x%d=1 " % i for i in range(n)) + b">"
    ),
    "HTML references": lambda n: HTML + b"a&b " * n,
    "HTML references in a table": lambda n: HTML + b"<table>" + b"a&b " * n,
    "HTML less-than signs": lambda n: HTML + b"<" * n,
    "HTML comments never closed": lambda n: HTML + b"<!--" * n,
    "HTML titles never closed": lambda n: HTML + b"<title>" * n,
    "HTML text elements": lambda n: HTML + b"<noscript>&lt;" * n,
    "HTML text elements never closed": lambda n: HTML + b"<xmp a='&lt;" * n,
    "HTML images as data": lambda n: HTML + b"<img src='data:image/png;base64,AAAA'>" * n,
}


def seconds(raw: bytes) -> float:
    # timeit keeps the garbage collector out of it, whose time depends on what else is in memory.
    return timeit.timeit(lambda: parse(raw), number=1, timer=time.process_time)


@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_linear(name: str) -> None:
    size = 10_000
    once = min(seconds(HOSTILE[name](size)) for _ in range(3))
    # Quadratic would be 64; what takes a few milliseconds is not worth a comparison.
    longest = max(0.05, min(3, 24 * once))
    assert any(seconds(HOSTILE[name](8 * size)) < longest for _ in range(3))
