"""What servers answer, in the ways they write it."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.errors import ProtocolError
from tasks.mail.imap.fetch import (
    Assembly,
    read_envelopes,
    read_flag_answers,
    read_internaldate,
    read_only_uids,
    read_sizes,
)
from tasks.mail.imap.folders import wire_path
from tasks.mail.imap.responses import (
    AppendedUid,
    FolderStatus,
    Line,
    read_appended_uid,
    read_list,
    read_mailbox_id,
    read_status,
    read_uid_set,
)
from tasks.mail.message import FetchedMessage


def read_messages(lines: Iterable[Line]) -> Iterator[FetchedMessage]:
    """All messages that these lines make up."""
    assembly = Assembly()
    yield from assembly.take(lines)
    yield from assembly.held()


READERS: list[Callable[[Iterable[Line]], Any]] = [
    read_list, read_status, read_sizes, read_flag_answers, read_messages, read_envelopes, read_only_uids,
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
            list(found)
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
    assert list(read_flag_answers(lines)) == []
    assert list(read_only_uids(lines)) == [7]


@pytest.mark.parametrize("uid", [b"4294967296", b"18446744073709551616", b"9" * 5000])
def test_a_uid_that_cannot_be_one_is_an_error(uid: bytes) -> None:
    with pytest.raises(ProtocolError, match="too high"):
        list(read_flag_answers([b"1 (UID " + uid + b" FLAGS ())"]))


@pytest.mark.parametrize(
    ("after", "size"),
    [
        (b" )", 3), (b"\t)", 3), (b") ", 3), (b"\r\n)", 3), (b"\r\n\r\n)", 3), (b"\r\n)", 900),
        (b"\r\n FLAGS (\\Seen))", 3), (b" flags (\\Seen))", 3), (b" UID 7 Flags (\\Seen) )", 3),
        (b"  X-GM-THRID 12 FLAGS (\\Seen))", 3),
    ],
)  # fmt: skip
def test_blanks_and_any_case_after_a_literal_are_borne(after: bytes, size: int) -> None:
    before = b"3 (uid 7 rfc822.size %d body[] {3}" % size

    [message] = read_messages([(before, b"raw"), after])

    assert (message.uid, message.raw, message.size) == (7, b"raw", size)
    assert message.flags == (("\\Seen",) if b"Seen" in after else ())


@pytest.mark.parametrize("after", [b"\r\n)", b"  )", b"\r\n FLAGS ())"])
def test_a_literal_that_is_shorter_than_the_message_by_the_blanks_after_it_was_cut(after: bytes) -> None:
    with pytest.raises(ProtocolError, match="its length was wrong"):
        list(read_messages([(b"3 (UID 7 RFC822.SIZE 5 BODY[] {3}", b"raw"), after]))


@pytest.mark.parametrize("flags", [b"1 (FLAGS (\\Seen))", b"1 (UID 7 FLAGS (\\Seen))", b"1 (flags (\\Seen) uid 7)"])
@pytest.mark.parametrize("is_first", [True, False])
def test_flags_may_come_in_a_line_of_their_own(flags: bytes, is_first: bool) -> None:
    body: list[Line] = [(b"1 (UID 7 BODY[] {3}", b"raw"), b")"]
    other: list[Line] = [b"2 (UID 8 FLAGS (\\Deleted))", b"3 (FLAGS (\\Deleted))"]

    [message] = read_messages([flags, *other, *body] if is_first else [*body, *other, flags])

    assert (message.uid, message.flags) == (7, ("\\Seen",))


def test_flags_by_a_number_that_is_anothers_now_are_not_taken() -> None:
    assembly = Assembly()
    assert list(assembly.take([b"1 (FLAGS (\\Seen))"])) == []
    assembly.forget_numbers()

    assert list(assembly.take([(b"1 (UID 7 BODY[] {3}", b"raw"), b")"])) == []

    assert [(message.uid, message.flags) for message in assembly.held()] == [(7, ())]


def test_messages_do_not_wait_for_their_flags_for_ever() -> None:
    lines: list[Line] = [
        part for uid in range(1, 300) for part in ((b"%d (UID %d BODY[] {3}" % (uid, uid), b"raw"), b")")
    ]
    assembly = Assembly()

    given = [message.uid for message in assembly.take(lines)]

    assert given == list(range(1, 200))
    assert [message.uid for message in assembly.held()] == list(range(200, 300))


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
        ([b'() "/" "\xe4"'], "\uefe4", "/"),
        ([b'() "" x'], "x", None),
        ([b"() nil x"], "x", None),
        ([b'()  "/"  "x" '], "x", "/"),
        ([b'()"/" "x"'], "x", "/"),
        ([b'() "/" Sent Items'], "Sent Items", "/"),
        ([b'() "//" x'], "x", None),
        ([b'() "/" "x" ("CHILDINFO" ("SUBSCRIBED"))'], "x", "/"),
        ([b'() "/" x (OLDNAME ("y z"))'], "x", "/"),
        ([b'() "/" "x" ()'], "x", "/"),
        ([b'() "/" a (b)'], "a (b)", "/"),
        ([(b'() "/" {1}', b"x"), (b' ("OLDNAME" ({1}', b"y"), b"))"], "x", "/"),
        ([(b'() "/" {1}', b"x"), b" "], "x", "/"),
    ],
)
def test_folder_names_come_quoted_bare_or_as_literals(lines: list[Line], path: str, delimiter: str | None) -> None:
    ((folder,), unreadable) = read_list(lines)

    assert (folder.path, folder.delimiter) == (path, delimiter)
    assert unreadable == []


@pytest.mark.parametrize(
    "line",
    [
        b"", b"((((", b'"/" x', b'() "/"', b'() "/" "x" garbage', b'() "/" "a "b" c"', b'() "/" "a\0b"',
        b'() "/" ' + b"(a (" * 5000,
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_costs_itself(line: bytes) -> None:
    folders, unreadable = read_list([b'() "/" a', line, b'() "/" b'])

    assert [folder.path for folder in folders] == ["a", "b"]
    assert unreadable == [line]


def test_the_empty_name_is_no_folder() -> None:
    assert read_list([b'(\\Noselect) "/" ""']) == ([], [])


@given(st.binary().filter(lambda name: not set(name) & set(b"\r\n\0") and name != b""))
@example("\uef80\uefff\xe4".encode())
@example(b"\xe4")
@example(b"\xed\xb3\xa4")
def test_the_bytes_of_any_name_are_kept(name: bytes) -> None:
    ((folder,), _) = read_list([(b'() "/" {1}', name), b""])

    assert wire_path(folder.path) == b'"' + name.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    assert not any("\ud800" <= character <= "\udfff" for character in folder.path)


def test_bytes_that_nobody_can_read_are_shown_as_numbers() -> None:
    ((one, other), _) = read_list([b'() "/" "Gr\xfcn"', b'() "/" "Gr\xf6n"'])

    assert (one.name, other.name) == ("Gr%FCn", "Gr%F6n")


def test_attributes_are_compared_without_case() -> None:
    ((folder,), _) = read_list([b'(\\NoSelect \\HasChildren) "/" "x"'])

    assert folder.attributes == {"\\noselect", "\\haschildren"}
    assert not folder.is_selectable


def test_the_state_of_a_folder_with_parentheses_in_its_name() -> None:
    ((path, status),) = read_status([b'"a (b)" (MESSAGES 3 UIDNEXT 9 UIDVALIDITY 5 UNSEEN 1 HIGHESTMODSEQ 0)'])

    assert path == "a (b)"
    assert status == (3, 5, 9, None, 1, None)


def test_a_state_that_cannot_be_true_costs_itself() -> None:
    lines: list[Line] = [
        b'"a" (MESSAGES 3 UIDNEXT ' + b"9" * 30 + b")", b"nonsense", b"b (messages 4 mailboxid (F12) uidnext 9 )"
    ]  # fmt: skip

    assert list(read_status(lines)) == [("b", FolderStatus(4, 0, 9, None))]


@pytest.mark.parametrize(
    ("words", "appended"),
    [
        (b"[APPENDUID 38505 3955] done", AppendedUid(38505, 3955)),
        (b"[APPENDUID 0 3955] done", None),
        (b"[APPENDUID 38505 0] done", None),
        (b"[APPENDUID 38505 99999999999] done", None),
        (b"[APPENDUID 38505] done", None),
        (b"done", None),
    ],
)
def test_an_appenduid_that_cannot_be_true_is_none(words: bytes, appended: AppendedUid | None) -> None:
    assert read_appended_uid([words]) == appended


def test_the_state_of_a_folder_named_in_a_literal() -> None:
    ((path, status),) = read_status([(b"{3}", b"a b"), b" (MESSAGES 3)"])

    assert path == "a b"
    assert status == (3, 0, None, None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'INTERNALDATE "17-Jul-1996 02:44:25 -0700"', datetime(1996, 7, 17, 9, 44, 25, tzinfo=UTC)),
        (b'INTERNALDATE " 1-JAN-2026 00:00:00 +0000"', datetime(2026, 1, 1, tzinfo=UTC)),
        (b'INTERNALDATE "2-Mar-2026 10:00:00 +0000"', datetime(2026, 3, 2, 10, tzinfo=UTC)),
        (b'internaldate  "2-mar-2026  9:00:00 +01:00"', datetime(2026, 3, 2, 8, tzinfo=UTC)),
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
    [flags] = read_flag_answers([b"1 (X-GM-LABELS (" + written + rb") UID 7 FLAGS (\Seen))"])
    assert flags.flags == ("\\Seen", *labels)


def test_labels_in_a_quoted_body_are_none() -> None:
    [message] = read_messages([rb'1 (UID 7 FLAGS () RFC822.SIZE 3 BODY[] "X-GM-LABELS (Work)")'])
    assert (message.flags, message.thread_id) == ((), None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"(F2212ea87-6097-4256-9d51-71338625)", "F2212ea87-6097-4256-9d51-71338625"),
        (b"(\xaf\x83\x92)", None),  # what Cyrus 3.6 gives to STATUS
        (b"()", None),
        (b"(a b)", None),
        (b"(" + b"a" * 256 + b")", None),
    ],
)
def test_the_identifier_of_a_folder(line: bytes, expected: str | None) -> None:
    assert read_mailbox_id([line]) == expected
