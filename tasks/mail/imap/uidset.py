"""Sets of UIDs as ranges: the sequence-set of IMAP (RFC 9051 section 9) and the int8multirange of PostgreSQL.

A folder of 600,000 messages is usually a handful of ranges, so a set stays small where a list would not.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

_MULTIRANGE_PART = re.compile(r"\[(\d+),(\d+)\)")


class UidSet(NamedTuple):
    """Disjoint ranges in ascending order, each (first, last), both included."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, uids: Iterable[int]) -> Self:
        """The set of `uids`, in any order, duplicates allowed."""
        return cls(_joined((uid, uid) for uid in sorted(uids)))

    @classmethod
    def union(cls, sets: Iterable["UidSet"]) -> Self:
        """The UIDs that are in any of `sets`."""
        return cls(_joined(sorted(part for uids in sets for part in uids.ranges)))

    @classmethod
    def from_imap(cls, sequence_set: str) -> Self:
        """Read `1:5,7`; ranges may be written backwards, overlap, and come in any order."""
        ranges = []
        for part in filter(None, sequence_set.split(",")):
            first, _, last = part.partition(":")
            low, high = sorted((int(first), int(last or first)))
            ranges.append((low, high))
        return cls(_joined(sorted(ranges)))

    @classmethod
    def from_multirange(cls, multirange: str) -> Self:
        """Read PostgreSQL's canonical text form, `{[1,6),[7,8)}`."""
        return cls(tuple((int(low), int(high) - 1) for low, high in _MULTIRANGE_PART.findall(multirange)))

    def to_imap(self) -> str:
        """The set as IMAP writes it, such as `1:5,7`. Not for an empty set, which IMAP cannot write."""
        return ",".join(str(low) if low == high else f"{low}:{high}" for low, high in self.ranges)

    def to_imap_parts(self, longest: int) -> Iterator[str]:
        """`to_imap` in parts of at most `longest` characters, for servers that read no longer lines."""
        part: list[str] = []
        length = 0
        for low, high in self.ranges:
            text = UidSet(((low, high),)).to_imap()
            if part and length + len(text) + 1 > longest:
                yield ",".join(part)
                part, length = [], 0
            part.append(text)
            length += len(text) + 1
        if part:
            yield ",".join(part)

    def split(self, most: int) -> Iterator["UidSet"]:
        """The same UIDs in sets of at most `most`, ascending."""
        part: list[tuple[int, int]] = []
        room = most
        for first, last in self.ranges:
            low = first
            while last - low + 1 >= room:
                yield UidSet((*part, (low, low + room - 1)))
                low, part, room = low + room, [], most
            if low <= last:
                part.append((low, last))
                room -= last - low + 1
        if part:
            yield UidSet(tuple(part))

    def to_multirange(self) -> str:
        """`{[1,6),[7,8)}`."""
        return "{" + ",".join(f"[{low},{high + 1})" for low, high in self.ranges) + "}"

    def size(self) -> int:
        """How many UIDs there are."""
        return sum(high - low + 1 for low, high in self.ranges)

    def from_uid(self, first: int) -> "UidSet":
        """The UIDs that are `first` or above."""
        return UidSet(tuple((max(low, first), high) for low, high in self.ranges if high >= first))

    def below(self, uid: int) -> "UidSet":
        """The UIDs that are lower than this one."""
        return UidSet(tuple((low, min(high, uid - 1)) for low, high in self.ranges if low < uid))

    def minus(self, other: "UidSet") -> "UidSet":
        """The UIDs that are not in `other`."""
        left: list[tuple[int, int]] = []
        cuts, at = other.ranges, 0
        for low, high in self.ranges:
            while at < len(cuts) and cuts[at][1] < high:
                if cuts[at][0] > low:
                    left.append((low, cuts[at][0] - 1))
                low = max(low, cuts[at][1] + 1)
                at += 1
            if at < len(cuts) and cuts[at][0] <= high:
                high = cuts[at][0] - 1
            if low <= high:
                left.append((low, high))
        return UidSet(tuple(left))

    def uids(self) -> Iterator[int]:
        """Each UID, ascending."""
        for low, high in self.ranges:
            yield from range(low, high + 1)


def _joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for low, high in ranges:
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)
