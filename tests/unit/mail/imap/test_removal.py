"""What a server says about the new UIDs of messages that it moved or copied."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.mail.imap.removal import Moved, read_copied_uids
from tasks.mail.imap.uidset import UidSet

ASKED = UidSet.from_imap("304,319:320")
NONE = Moved(None, {})


@pytest.mark.parametrize(
    ("lines", "moved"),
    [
        ([b"38505 304,319:320 3956:3958"], Moved(38505, {304: 3956, 319: 3957, 320: 3958})),
        ([b"38505 304 3956"], Moved(38505, {304: 3956})),
        ([b"38505 304 3956", b"38505 319:320 3957:3958"], Moved(38505, {304: 3956, 319: 3957, 320: 3958})),
        ([b"38505 304 3956", b"nonsense"], Moved(38505, {304: 3956})),
        ([b"0 304 3956"], NONE),
        ([b"4294967296 304 3956"], NONE),
        ([b"x 304 3956"], NONE),
        ([b"38505 304"], NONE),
        ([b""], NONE),
        ([b"38505 304 3956 7"], Moved(38505, {304: 3956})),
        ([b"38505 304:320 3956:3972"], NONE),
        ([b"38505 304,319:320 3956:3957"], NONE),
        ([b"38505 304,319 3956,3956"], NONE),
        ([b"38505 304 3956", b"38505 319 3956"], NONE),
        ([b"38505 304 3956", b"38506 319 3957"], NONE),
        ([b"38505 305 3956"], NONE),
        ([b"38505 304 0"], NONE),
        ([b"38505 304 1:99999999999"], NONE),
        ([b"38505 304 *"], NONE),
        ([b"38505 304 " + b"9" * 5000], NONE),
    ],
)
def test_what_cannot_be_true_counts_as_nothing(lines: list[bytes], moved: Moved) -> None:
    assert read_copied_uids(lines, ASKED) == moved


@given(
    st.lists(
        st.lists(st.sampled_from(["1", "2", "304", "319", "320", "0", ":", ",", "*", "x", "38505"]))
        .map("".join)
        .map(str.encode)
    )
)
def test_whatever_it_says_only_what_was_asked_for_has_a_new_place(lines: list[bytes]) -> None:
    moved = read_copied_uids(lines, ASKED)

    assert set(moved.uids) <= {304, 319, 320}
    assert len(set(moved.uids.values())) == len(moved.uids)
