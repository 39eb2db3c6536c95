"""Where a header begins and ends, also where its lines are damaged; Dovecot is asked in tests/integration/sync."""

import pytest

from tasks.mail.parse.header_section import split_headers


@pytest.mark.parametrize(
    ("data", "fields", "body"),
    [
        (b"", [], b""),
        (b"\r\nx", [], b"x"),
        (b"A: 1\r\n\r\nx", [("A", "1")], b"x"),
        (b"A: 1\n\nx", [("A", "1")], b"x"),
        (b"A: 1", [("A", "1")], b""),
        (b"A:1\r\n 2\r\n\t 3\r\nB:\r\n\r\n", [("A", "1 2 3"), ("B", "")], b""),
        (b"A: 1\r\n \r\nX-B: 2\r\n\r\nx", [("A", "1"), ("X-B", "2")], b"x"),
        (b"A \t: 1 \r\n\r\n", [("A", "1")], b""),
        (b"A: 1\rB: 2\r\n\r\n", [("A", "1 B: 2")], b""),
        (b" folded first\r\nA: 1\r\n\r\nx", [], b" folded first\r\nA: 1\r\n\r\nx"),
        (b"A: 1\rTo: 2\r\n\r\n", [("A", "1"), ("To", "2")], b""),
        (b"A: 1\r\njunk\r\nX-B: 2\r\n\r\nx", [("A", "1"), ("X-B", "2")], b"x"),
        (b"A: 1\r\njunk\r\n junk\r\njunk\r\nX-B: 2\r\n\r\nx", [("A", "1"), ("X-B", "2")], b"x"),
        (b"caf\xe9: 1\r\n\r\nx", [], b"caf\xe9: 1\r\n\r\nx"),
    ],
)
def test_split_headers(data: bytes, fields: list[tuple[str, str]], body: bytes) -> None:
    found, start = split_headers(data, 0, len(data))
    assert (found, data[start:]) == (fields, body)


@pytest.mark.parametrize(
    ("data", "fields", "body"),
    [
        # What comes before the first field.
        (b" \nTo: 1\n\nx", [("To", "1")], b"x"),
        (b"\tTo: 1\n\nx", [("To", "1")], b"x"),
        (b"From a@b\nTo: 1\n\nx", [("To", "1")], b"x"),
        (b"note\nTo: 1\n\nx", [("To", "1")], b"x"),
        (b"note\n\nMessage-ID: 1\n\nx", [("Message-ID", "1")], b"x"),
        (b"\n\nReceived: 1\n\nx", [("Received", "1")], b"x"),
        (b"note\n\xef\xbb\xbfTo: 1\n\nx", [("To", "1")], b"x"),
        # A text without header.
        (b"Hello\nNote: 1\n\nx", [], b"Hello\nNote: 1\n\nx"),
        (b"Hello\n\nFrom: 1\n\nx", [], b"Hello\n\nFrom: 1\n\nx"),
        (b"\nSubject: 1\n\nx", [], b"Subject: 1\n\nx"),
        (b"From a@b 10:00\n\nx", [], b"x"),
        (b"Hello\n\nBo\n\nMessage-ID: 1\n\nx", [], b"Hello\n\nBo\n\nMessage-ID: 1\n\nx"),
        # Between fields.
        (b"To: 1\n>From a@b 10:00\nX-B: 2\n\nx", [("To", "1"), ("X-B", "2")], b"x"),
        (b"To: 1\n: 2\n\nx", [("To", "1")], b"x"),
        (b"To: 1\na\n b\nc\nX-B: 2\n\nx", [("To", "1"), ("X-B", "2")], b"x"),
        (b"To: 1\n \n\t\n 2\n\nx", [("To", "1 2")], b"x"),
        # Where the empty line is missing, or is none.
        (b"To: 1\nHello\n\nx", [("To", "1")], b"Hello\n\nx"),
        (b"To: 1\nHello\nNote: 2\n\nx", [("To", "1")], b"Hello\nNote: 2\n\nx"),
        (b"To: 1\nHello\nTo: 2\n\nx", [("To", "1")], b"Hello\nTo: 2\n\nx"),
        (b"To: 1\n \nHello\n\nx", [("To", "1")], b"Hello\n\nx"),
        (b"To: 1\n \nNote: 2\n\nx", [("To", "1")], b"Note: 2\n\nx"),
        (b"To: 1\n \n  Hello\n \nx\n", [("To", "1")], b"  Hello\n \nx\n"),
        (b"To: 1\n \n\nx", [("To", "1")], b"x"),
        # After it, a text is a text.
        (b"To: 1\n\nNote: 2\n\nx", [("To", "1")], b"Note: 2\n\nx"),
        (b"To: 1\n\nSubject: 2\n\nx", [("To", "1")], b"Subject: 2\n\nx"),
    ],
)
def test_damaged_header(data: bytes, fields: list[tuple[str, str]], body: bytes) -> None:
    for line_end in (b"\n", b"\r\n"):
        whole = data.replace(b"\n", line_end)
        found, start = split_headers(whole, 0, len(whole))
        assert (found, whole[start:]) == (fields, body.replace(b"\n", line_end))


@pytest.mark.parametrize(
    ("data", "fields", "body"),
    [
        (b"note\nContent-ID: 1\n\nx", [("Content-ID", "1")], b"x"),
        (b" Content-ID: 1\n\nx", [("Content-ID", "1")], b"x"),
        (b"Content-ID: 1\nx", [("Content-ID", "1")], b"x"),
        (b"Content-ID: 1\nnote\nContent-Type: 2\n\nx", [("Content-ID", "1"), ("Content-Type", "2")], b"x"),
        (b"X-A: 1\n\nx", [("X-A", "1")], b"x"),
        (b"\nContent-ID: 1\n\nx", [], b"Content-ID: 1\n\nx"),
        (b"Hello\nTo: 1\n\nx", [], b"Hello\nTo: 1\n\nx"),
        (b"Hello\n\nContent-Type: 1\n\nx", [], b"Hello\n\nContent-Type: 1\n\nx"),
        (b"Content-ID: 1\nHello\nX-A: 1\n\nx", [("Content-ID", "1")], b"Hello\nX-A: 1\n\nx"),
        (b"From a@b 10:00\n\nx", [], b"From a@b 10:00\n\nx"),
    ],
)
def test_header_of_a_part(data: bytes, fields: list[tuple[str, str]], body: bytes) -> None:
    found, start = split_headers(data, 0, len(data), of_part=True)
    assert (found, data[start:]) == (fields, body)


def test_split_headers_stays_within_its_part() -> None:
    data = b"\n\nA: 1\n\nx\n\n"
    assert split_headers(data, 2, 6) == ([("A", "1")], 6)
