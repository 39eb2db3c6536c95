"""What servers answer, in the ways they write it."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.errors import ProtocolError
from tasks.mail.imap_responses import (
    Line,
    read_envelopes,
    read_flags,
    read_internaldate,
    read_list,
    read_messages,
    read_only_uids,
    read_sizes,
    read_status,
    read_uid_set,
)
from tasks.mail.message import FetchedMessage

READERS: list[Callable[[Iterable[Line]], Any]] = [
    read_list, read_status, read_sizes, read_flags, read_messages, read_envelopes, read_only_uids,
]  # fmt: skip
# Bytes, with the words of the protocol thrown in.
_PROTOCOL = (
    b'UID #FLAGS (#RFC822.SIZE #BODY[] #INTERNALDATE "#99999999999999999999999# #(#)#"#\\#NIL#1#MESSAGES #{3}#/'
)
WORDS = st.sampled_from(_PROTOCOL.split(b"#"))
GARBAGE = st.lists(WORDS | st.binary(max_size=8)).map(b"".join)
LINES = st.lists(GARBAGE | st.tuples(GARBAGE, st.binary(max_size=20)) | st.none(), max_size=5)


@given(LINES)
@example([b"1 FETCH (UID " + b"9" * 5000 + b" FLAGS ())"])
@example([(b"BODY[] {3}", b"abc")])
@example([(b'() "/" {3}', b"a\0b"), b""])
def test_garbage_raises_nothing_but_protocol_error(lines: list[Line]) -> None:
    for reader in READERS:
        try:
            found = reader(lines)
            list(found) if not isinstance(found, dict) else found
        except ProtocolError:
            continue


@given(GARBAGE)
def test_garbage_as_a_set_of_uids_raises_nothing_but_protocol_error(text: bytes) -> None:
    try:
        uids = read_uid_set(text)
    except ProtocolError:
        return
    assert all(1 <= low <= high < 2**32 for low, high in uids.ranges)


ITEMS = [b"UID 7", b"FLAGS (\\Seen $Work)", b'INTERNALDATE " 2-Mar-2026 11:30:00 +0130"', b"MODSEQ (12)"]
MESSAGE = FetchedMessage(7, ("\\Seen", "$Work"), datetime(2026, 3, 2, 10, 0, tzinfo=UTC), 11, b"raw (UID 9)")


@pytest.mark.parametrize("order", list(permutations(range(5))))
def test_items_may_come_in_any_order(order: tuple[int, ...]) -> None:
    # Given the literal anywhere among the items, as imaplib splits them
    items = [*ITEMS, b"BODY[] {11}"]
    text = b"3 (" + b" ".join(items[index] for index in order) + b")"
    before, literal, after = text.partition(b"{11}")

    assert list(read_messages([(before + literal, b"raw (UID 9)"), after])) == [MESSAGE]


@pytest.mark.parametrize(
    ("line", "raw"),
    [
        (b'3 (UID 7 BODY[] "one \\"line\\" \\\\")', b'one "line" \\'),
        (b'3 (BODY[] "" UID 7)', b""),
        (b'3 (BODY[] "UID 9 FLAGS (x)" UID 7)', b"UID 9 FLAGS (x)"),
        (b"3 (UID 7 BODY[] NIL)", None),
        (b"3 (UID 7 FLAGS ())", None),
        (b'3 (FLAGS (UID 9) UID 7 BODY[] "x")', b"x"),
    ],
)
def test_a_body_may_be_quoted_or_nil(line: bytes, raw: bytes | None) -> None:
    assert [(m.uid, m.raw) for m in read_messages([line])] == ([(7, raw)] if raw is not None else [])


@pytest.mark.parametrize("after", [b"", b" garbage", b"Hello.", b")x", b" uid", b") FETCH"])
def test_what_cannot_follow_a_literal_shows_that_its_length_was_wrong(after: bytes) -> None:
    with pytest.raises(ProtocolError, match="its length was wrong"):
        list(read_messages([(b"3 (UID 7 BODY[] {3}", b"raw"), after]))


def test_two_literals_in_a_row_show_that_a_length_was_wrong() -> None:
    with pytest.raises(ProtocolError, match="its length was wrong"):
        list(read_messages([(b"3 (UID 7 BODY[] {3}", b"raw"), (b"4 (UID 8 BODY[] {3}", b"raw"), b")"]))


def test_answers_to_other_commands_are_passed_over() -> None:
    lines: list[Line] = [b"5 (FLAGS (\\Seen))", b"1 (UID 7 RFC822.SIZE 10)", None]

    assert read_sizes(lines) == {7: 10}
    assert list(read_flags(lines)) == []
    assert list(read_only_uids(lines)) == [7]


@pytest.mark.parametrize("uid", [b"4294967296", b"18446744073709551616", b"9" * 5000])
def test_a_uid_that_cannot_be_one_is_an_error(uid: bytes) -> None:
    with pytest.raises(ProtocolError, match="too high"):
        list(read_flags([b"1 (UID " + uid + b" FLAGS ())"]))


@pytest.mark.parametrize(
    ("lines", "path", "delimiter"),
    [
        ([b'(\\HasNoChildren) "/" INBOX'], "INBOX", "/"),
        ([b'() "." "a \\"b\\" \\\\c"'], 'a "b" \\c', "."),
        ([b'() "\\\\" "x"'], "x", "\\"),
        ([b"() NIL Entw&APw-rfe"], "Entw&APw-rfe", None),
        ([(b'() "/" {3}', b"a\r\n"), b""], "a\r\n", "/"),
        ([(b'() "/" {5}', b"a (b)"), b' ("CHILDINFO" ("SUBSCRIBED"))'], "a (b)", "/"),
        (['() "/" "Größe"'.encode()], "Größe", "/"),
        ([b'() "/" "\xe4"'], "\N{REPLACEMENT CHARACTER}", "/"),
    ],
)
def test_folder_names_come_quoted_bare_or_as_literals(lines: list[Line], path: str, delimiter: str | None) -> None:
    (folder,) = read_list(lines)

    assert (folder.path, folder.delimiter) == (path, delimiter)


def test_attributes_are_compared_without_case() -> None:
    (folder,) = read_list([b'(\\NoSelect \\HasChildren) "/" "x"'])

    assert folder.attributes == {"\\noselect", "\\haschildren"}
    assert not folder.is_selectable


def test_the_state_of_a_folder_with_parentheses_in_its_name() -> None:
    ((path, status),) = read_status([b'"a (b)" (MESSAGES 3 UIDNEXT 9 UIDVALIDITY 5 UNSEEN 1 HIGHESTMODSEQ 0)'])

    assert path == "a (b)"
    assert status == (3, 5, 9, None, 1)


def test_the_state_of_a_folder_named_in_a_literal() -> None:
    ((path, status),) = read_status([(b"{3}", b"a b"), b" (MESSAGES 3)"])

    assert path == "a b"
    assert status == (3, 0, None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'INTERNALDATE "17-Jul-1996 02:44:25 -0700"', datetime(1996, 7, 17, 9, 44, 25, tzinfo=UTC)),
        (b'INTERNALDATE " 1-JAN-2026 00:00:00 +0000"', datetime(2026, 1, 1, tzinfo=UTC)),
        (b'INTERNALDATE "31-Feb-2026 00:00:00 +0000"', None),
        (b'INTERNALDATE "01-Foo-2026 00:00:00 +0000"', None),
        (b'INTERNALDATE "01-Jan-0000 00:00:00 +0000"', None),
        (b'INTERNALDATE "31-Dec-9999 23:59:59 -2359"', None),
        (b'INTERNALDATE "01-Jan-2026 00:00:00 +9999"', None),
        (b"UID 5", None),
    ],
)
def test_an_impossible_date_is_none(text: bytes, expected: datetime | None) -> None:
    assert read_internaldate(text) == expected


def test_a_message_that_was_too_large_to_read_has_its_size_and_no_bytes() -> None:
    answer = [(b"3 (UID 7 RFC822.SIZE 900000 BODY[] {900000}", b""), b")"]
    assert [(message.size, message.raw) for message in read_messages(answer)] == [(900000, None)]


def test_an_empty_message_is_a_message() -> None:
    answer = [(b"3 (UID 7 BODY[] {0}", b""), b")"]
    assert [(message.size, message.raw) for message in read_messages(answer)] == [(0, b"")]


GMAIL_LABELS = [
    (b"", ()),
    (rb'"\\Inbox" "\\Sent" Important "Muy Importante"', ("\\Inbox", "\\Sent", "Important", "Muy Importante")),
    (rb'"B&APw-cher (neu)" "a \"b\" \\c" X-GM-LABELS', ("Bücher (neu)", 'a "b" \\c', "X-GM-LABELS")),
]


@pytest.mark.parametrize(("written", "labels"), GMAIL_LABELS)
def test_gmails_labels_are_read_as_people_write_them(written: bytes, labels: tuple[str, ...]) -> None:
    line = b"1 (X-GM-THRID 1278455344230334865 X-GM-LABELS (" + written + rb") UID 7 FLAGS (\Seen) BODY[] {3}"
    [message] = read_messages([(line, b"raw"), b")"])
    assert message.flags == ("\\Seen", *labels)
    assert message.thread_id == "gmail-1278455344230334865"
    [flags] = read_flags([b"1 (X-GM-LABELS (" + written + rb") UID 7 FLAGS (\Seen))"])
    assert flags.flags == ("\\Seen", *labels)


def test_labels_in_a_quoted_body_are_none() -> None:
    [message] = read_messages([rb'1 (UID 7 FLAGS () RFC822.SIZE 3 BODY[] "X-GM-LABELS (Work)")'])
    assert (message.flags, message.thread_id) == ((), None)
