"""Which conversation a message belongs to, whatever order the messages come in."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tasks.storage.messages.conversations import ancestors_of, assign, started_by


class Mail(NamedTuple):
    """What of a message decides."""

    message_id: str | None
    references: tuple[str, ...] = ()
    in_reply_to: tuple[str, ...] = ()
    thread_id: str | None = None


class Store:
    """What the database does with assignments: keeps conversations by row, and joins those that are merged."""

    def __init__(self) -> None:
        self.rows: list[tuple[Mail, str | None]] = []

    def add(self, batch: Sequence[Mail]) -> None:
        wanted = {ancestor for mail in batch for ancestor in ancestors_of(mail)}
        known = {mail.message_id: c for mail, c in self.rows if mail.message_id in wanted and c is not None}
        conversations, merges = assign(batch, known)
        self.rows = [(mail, merges.get(c, c) if c else None) for mail, c in self.rows]
        self.rows += zip(batch, conversations, strict=True)

    def conversations(self) -> dict[str | None, str | None]:
        return {mail.message_id: conversation for mail, conversation in self.rows}


# A thread as the parent of each message but the root: the third message answers the first or the second, and so on.
PARENTS = st.integers(0, 7).flatmap(lambda size: st.tuples(*(st.integers(0, number) for number in range(size))))
FORESTS = st.lists(PARENTS, min_size=1, max_size=3)


def thread(name: int, parents: Sequence[int], *, complete: bool) -> list[Mail]:
    root = Mail(f"{name}.0")
    mails = [root]
    paths: list[tuple[str, ...]] = [()]
    for number, parent in enumerate(parents, 1):
        paths.append((*paths[parent], f"{name}.{parent}"))
        references = paths[-1] if complete else ()
        mails.append(Mail(f"{name}.{number}", references, (f"{name}.{parent}",)))
    return mails


def stored(mails: Sequence[Mail], cuts: set[int]) -> Store:
    store = Store()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(mails)), len(mails)]
    for first, last in pairwise(bounds):
        store.add(mails[first:last])
    return store


@given(FORESTS, st.booleans(), st.randoms(use_true_random=False), st.sets(st.integers(1, 20)))
def test_a_thread_is_one_conversation_in_whatever_order_and_batches_it_comes(
    forest: list[tuple[int, ...]], complete: bool, random: object, cuts: set[int]
) -> None:
    mails = [mail for name, parents in enumerate(forest) for mail in thread(name, parents, complete=complete)]
    random.shuffle(mails)  # type: ignore[attr-defined]

    conversations = stored(mails, cuts).conversations()

    assert conversations == {mail.message_id: started_by(f"{mail.message_id[0]}.0") for mail in mails}


IDS = st.sampled_from("abcdef")
ANYTHING = st.builds(
    Mail, st.none() | IDS, st.lists(IDS, max_size=4).map(tuple), st.lists(IDS, max_size=2).map(tuple), st.none()
)


@given(st.lists(ANYTHING, max_size=20), st.sets(st.integers(1, 20)))
def test_loops_and_duplicates_come_to_an_end_and_nothing_stays_in_a_conversation_that_was_merged(
    mails: list[Mail], cuts: set[int]
) -> None:
    store = stored(mails, cuts)

    assert [mail for mail, _ in store.rows] == mails
    for mail, conversation in store.rows:
        assert (conversation is None) == (mail.message_id is None and not ancestors_of(mail))


@given(st.lists(ANYTHING, max_size=20))
def test_merges_name_where_conversations_ended_up(mails: list[Mail]) -> None:
    conversations, merges = assign(mails, {})

    assert not set(merges) & set(merges.values())
    assert not set(merges) & set(conversations)


def test_a_message_that_arrives_twice_stays_where_it_was() -> None:
    store = stored([Mail("a"), Mail("b", ("a",)), Mail("a"), Mail("b", ("a",))], {2})

    assert {conversation for _, conversation in store.rows} == {started_by("a")}


def test_a_late_parent_brings_its_replies_along() -> None:
    store = stored([Mail("c", in_reply_to=("b",)), Mail("d", in_reply_to=("b",)), Mail("b", ("a",))], {1, 2})

    assert {conversation for _, conversation in store.rows} == {started_by("a")}


def test_messages_that_name_no_other_are_conversations_of_their_own() -> None:
    conversations, merges = assign([Mail("a"), Mail("b"), Mail(None), Mail(None)], {})

    assert conversations == [started_by("a"), started_by("b"), None, None]
    assert merges == {}


def test_a_reply_to_several_messages_without_references_joins_none() -> None:
    assert assign([Mail("c", in_reply_to=("a", "b"))], {}).conversations == [started_by("c")]


def test_a_message_that_answers_itself_is_a_conversation() -> None:
    assert assign([Mail("a", ("a",), ("a",))], {}).conversations == [started_by("a")]


def test_a_thread_that_the_server_names_is_the_conversation_and_is_merged_with_none() -> None:
    mails = [Mail("a", (), (), "t1"), Mail("b", ("a",), (), "t2"), Mail("c", ("a",))]
    conversations, merges = assign(mails, {})
    assert conversations == ["t1", "t2", started_by("a")]
    assert merges == {started_by("c"): started_by("a")}
