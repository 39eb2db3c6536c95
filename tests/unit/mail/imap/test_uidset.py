"""UidSet against Python's sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.mail.imap.uidset import UidSet

UIDS = st.sets(st.integers(1, 60) | st.integers(1, 2**32 - 1), max_size=60)


@given(UIDS)
def test_a_set_holds_its_uids_in_the_fewest_ranges(uids: set[int]) -> None:
    found = UidSet.of(uids)

    assert list(found.uids()) == sorted(uids)
    assert found.size() == len(uids)
    assert all(before[1] + 1 < after[0] for before, after in zip(found.ranges, found.ranges[1:], strict=False))


@given(UIDS.filter(bool))
def test_both_forms_of_text_are_read_as_they_are_written(uids: set[int]) -> None:
    found = UidSet.of(uids)

    assert UidSet.from_imap(found.to_imap()) == found
    assert UidSet.from_multirange(found.to_multirange()) == found


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1))
def test_ranges_may_overlap_and_be_written_backwards(ranges: list[tuple[int, int]]) -> None:
    written = ",".join(f"{first}:{last}" for first, last in ranges)

    expected = {uid for first, last in ranges for uid in range(min(first, last), max(first, last) + 1)}
    assert set(UidSet.from_imap(written).uids()) == expected


@given(UIDS, st.integers(1, 70))
def test_from_uid_leaves_what_is_below_out(uids: set[int], first: int) -> None:
    assert list(UidSet.of(uids).from_uid(first).uids()) == sorted(uid for uid in uids if uid >= first)


@given(st.lists(UIDS, max_size=4))
def test_a_union_holds_what_any_of_its_sets_holds(sets: list[set[int]]) -> None:
    assert UidSet.union(UidSet.of(uids) for uids in sets) == UidSet.of(set().union(*sets))


@given(UIDS, st.integers(22, 80))
def test_parts_are_short_and_together_the_set(uids: set[int], longest: int) -> None:
    parts = list(UidSet.of(uids).to_imap_parts(longest))

    assert all(0 < len(part) <= longest for part in parts)
    assert UidSet.union(map(UidSet.from_imap, parts)) == UidSet.of(uids)


def test_an_empty_set_has_no_parts_and_an_empty_multirange() -> None:
    assert list(UidSet().to_imap_parts(100)) == []
    assert UidSet().to_multirange() == "{}"
    assert UidSet.from_multirange("{}") == UidSet.from_imap("") == UidSet()


@pytest.mark.parametrize("text", ["x", "1:x", "1:*", "1::2"])
def test_what_is_no_set_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        UidSet.from_imap(text)


@given(st.sets(st.integers(1, 300)), st.integers(1, 50))
def test_split_keeps_all_and_bounds_each(uids: set[int], most: int) -> None:
    parts = list(UidSet.of(uids).split(most))
    assert [uid for part in parts for uid in part.uids()] == sorted(uids)
    assert all(0 < part.size() <= most for part in parts)


@given(UIDS, UIDS)
def test_minus_leaves_what_is_in_the_other_out(uids: set[int], other: set[int]) -> None:
    left = UidSet.of(uids).minus(UidSet.of(other))

    assert left == UidSet.of(uids - other)


@given(UIDS, st.integers(1, 70))
def test_below_leaves_what_is_above_out(uids: set[int], end: int) -> None:
    assert list(UidSet.of(uids).below(end).uids()) == sorted(uid for uid in uids if uid < end)
