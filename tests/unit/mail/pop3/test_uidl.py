"""What a POP3 message is known by: the same in every session, and different for different messages."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.mail.pop3.uidl import UidlEntry, key_of_header, key_of_message, keys_by_unique_id, read_unique_id

HEADER = b"Received: from a by b; Mon, 02 Mar 2026 10:00:00 +0000\r\nMessage-ID: <1@example.org>\r\nSubject: One\r\n"


@pytest.mark.parametrize("word", [b"", b"two words", b"nul\0", "größe".encode(), b"x" * 201])
def test_what_is_no_unique_id(word: bytes) -> None:
    assert read_unique_id(word) is None


def test_copies_share_a_unique_id_and_others_do_not() -> None:
    listed = [UidlEntry(*row) for row in [(1, 10, "a"), (2, 10, "a"), (3, 99, "a"), (4, 5, None), (5, 5, "b")]]
    # Two of one size are copies (RFC 1939); a third of another size is not, and is known by its content.
    assert keys_by_unique_id(listed) == {1: "a", 2: "a", 5: "b"}


@pytest.mark.parametrize(
    "changed",
    [
        HEADER + b"\r\n",
        HEADER + b"\r\nwith a body",
        HEADER.replace(b"\r\n", b"\n"),
        b"Status: RO\r\n" + HEADER + b"X-UIDL: 7\r\nContent-Length: 12\r\n\r\n",
    ],
)
def test_what_servers_add_changes_nothing(changed: bytes) -> None:
    assert key_of_header(changed) == key_of_header(HEADER)


@pytest.mark.parametrize("changed", [HEADER.replace(b"One", b"Two"), HEADER.replace(b"10:00:00", b"10:00:01")])
def test_another_header_is_another_message(changed: bytes) -> None:
    assert key_of_header(changed) != key_of_header(HEADER)


def test_without_a_message_id_the_body_decides() -> None:
    assert key_of_header(b"Subject: One\r\n\r\n") is None
    assert key_of_message(b"Subject: One\r\n\r\nfirst") != key_of_message(b"Subject: One\r\n\r\nsecond")


@given(st.binary(max_size=200))
def test_any_bytes_have_a_key(raw: bytes) -> None:
    assert key_of_message(raw) == key_of_message(raw)


@pytest.mark.parametrize("raw", [b"x" * 2_000_000, b"x:\n " * 500_000, b"x:" * 1_000_000, b"\n" * 2_000_000])
def test_no_header_takes_long(raw: bytes) -> None:
    started = time.process_time()
    key_of_message(raw)
    assert time.process_time() - started < 2
