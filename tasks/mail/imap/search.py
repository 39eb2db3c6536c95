"""Which messages the open folder has, and what is known of them, asked of servers that answer a part at a time.

A server may work on only so many messages a command: on those with the highest UIDs, telling the lowest that it has
worked on (MESSAGELIMIT, RFC 9738 section 3.1). Others name fewer messages than they say there are, and say nothing.
Either is asked again, for what lies below what it named, and in the end by message numbers instead of by SEARCH.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import date
from typing import NamedTuple, TypeVar

from tasks.errors import ProtocolError
from tasks.mail.imap.base import ImapBase
from tasks.mail.imap.fetch import FetchedEnvelope, FetchedFlags, read_numbered_uids, read_only_uids
from tasks.mail.imap.folders import quote
from tasks.mail.imap.responses import FolderStatus, Line, read_number, read_uid_set, read_uids
from tasks.mail.imap.session import FetchRefusedError, NotUnderstoodError
from tasks.mail.imap.uidset import UidSet

Fetched = TypeVar("Fetched", FetchedFlags, FetchedEnvelope)

# imaplib refuses lines above 1,000,000 bytes; this many UIDs of at most eleven bytes fit.
_UIDS_PER_SEARCH = 80_000

# Servers have to take lines of 8,192 bytes (RFC 7162 section 4), and some take no more; this is for the UIDs alone.
MAX_UID_SET_LENGTH = 7_900

# strftime would write them in the language of the machine.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Providers show no more than so many messages of a folder, the newest: Yahoo and AOL 10,000
# (https://help.yahoo.com/kb/SLN28681.html), Gmail as many of these as its user chose (its settings, "Folder size
# limits"). The number of messages that they say there are (EXISTS) is then that of the window.
KNOWN_WINDOWS = frozenset((1_000, 2_000, 5_000, 10_000))

# More commands than this are not sent to find out what one folder has.
_MAX_COMMANDS = 2_000
# Message numbers that are asked for at a time: each answer is a line in memory.
_NUMBERS_PER_FETCH = 50_000


class Limit(NamedTuple):
    """A command was cut short: no more than `most` messages at a time; those below `lowest` were not looked at."""

    most: int
    lowest: int | None


class Named(NamedTuple):
    """The UIDs that an answer names, and where the server cut it short."""

    uids: UidSet
    limit: Limit | None = None


def read_limit(lines: Iterable[Line]) -> Limit | None:
    """`1000 23221`, from `[MESSAGELIMIT 1000 23221]` in a tagged OK or an untagged NO; the last one counts."""
    limit = None
    for line in lines:
        words = line.split() if isinstance(line, bytes) else []
        if words and all(word.isdigit() for word in words[:2]):
            limit = Limit(read_number(words[0]), read_number(words[1]) if len(words) > 1 else None)
    return limit


def downwards(
    ask: Callable[[int, int | None], Named], first: int, last: int | None, *, to_the_end: bool = False
) -> Iterator[UidSet]:
    """The UIDs from `first` to `last` (None: the highest), asking again below where the server cut its answer short.

    `to_the_end` asks again also where the server does not say so, until it names nothing more.
    """
    for _ in range(_MAX_COMMANDS):
        named = ask(first, last)
        yield named.uids
        found = named.uids.from_uid(first)
        lowest = named.limit.lowest if named.limit else None
        if lowest is None and to_the_end and found.ranges:
            lowest = found.ranges[0][0]
        if lowest is None or lowest <= first or (last is not None and lowest > last):
            return
        last = lowest - 1


def by_number(fetch: Callable[[int, int], Iterable[Line]], messages: int) -> Iterator[UidSet]:
    """The UIDs of the messages by their numbers, from the highest down; `fetch` asks for the UIDs of a range."""
    last = messages
    for _ in range(_MAX_COMMANDS):
        if last < 1:
            return
        first = max(1, last - _NUMBERS_PER_FETCH + 1)
        found = {number: uid for number, uid in read_numbered_uids(fetch(first, last)) if first <= number <= last}
        yield UidSet.of(found.values())
        last = min(found, default=first) - 1


def imap_date(day: date) -> str:
    """`02-Mar-2026`."""
    return f"{day:%d}-{_MONTHS[day.month - 1]}-{day:%Y}"


class ImapSearch(ImapBase):
    """SEARCH, and FETCH of any number of messages."""

    def search(self, first: int, status: FolderStatus) -> UidSet:
        """The UIDs from `first` up in the open folder. Raises FetchRefusedError where the server does not say.

        From 1 up, whoever asks has to compare their number with that of `status`: a server may name fewer, however
        it is asked.

        `n:*` always names the last message, also when its UID is below n (RFC 9051 section 9), so what is below is
        taken out again.
        """
        with self._imap_errors("searching"):
            windows = self._windows(first, status)

            def ask(extension: str | None) -> UidSet:
                def named(low: int, high: int | None) -> Named:
                    self._limit()
                    uids = self._search(f"{low}:{high or '*'}", is_extended=bool(extension))
                    return Named(uids, self._limit())

                found = UidSet.union(uids for window in windows for uids in downwards(named, *window))
                if first == 1 and status.messages and not found.ranges:
                    # Not an empty folder, or all that we have of it would be removed.
                    kind = NotUnderstoodError if extension else FetchRefusedError
                    raise kind(f"SEARCH names none of the {status.messages} messages")
                return self._completed(found, status.messages, named) if first == 1 else found

            return self._without_refused(("ESEARCH",), ask).from_uid(first)

    def existing(self, uids: UidSet) -> UidSet:
        """Which of `uids` the open folder has, each asked for by itself and not by SEARCH."""
        with self._imap_errors("fetching UIDs"):
            there = UidSet.of(read_only_uids(self._fetch(uids, "(UID)")))
            return uids.minus(uids.minus(there))

    def find_by_message_id(self, message_id: str, since: date) -> bool:
        """Whether the open folder has a message of that Message-ID, among those that came in since that day.

        The day bounds what a server has to look at. Raises FetchRefusedError where it does not say.
        """
        criteria = f"SINCE {imap_date(since)} HEADER Message-ID {quote(message_id)}"

        def ask(first: int, last: int | None) -> Named:
            self._limit()
            outcome, lines = self._imap.uid("SEARCH", f"UID {first}:{last} {criteria}" if last else criteria)
            self._require_ok(outcome, lines)
            words = (word for line in lines if isinstance(line, bytes) for word in line.split())
            return Named(UidSet.of(read_uids(words)), self._limit())

        with self._imap_errors("searching"):
            return any(found.ranges for found in downwards(ask, 1, None))

    @property
    def message_limit(self) -> int | None:
        """On how many messages a command works at most, as the server announces it (RFC 9738 section 3)."""
        limits = [name.partition("=")[2] for name in self.capabilities if name.startswith("MESSAGELIMIT=")]
        return next((int(digits) for digits in limits if digits.isdigit() and int(digits)), None)

    def parts(self, uids: UidSet, longest: int) -> Iterator[str]:
        """`uids` as sets of at most `longest` characters, one for each command that works on them.

        What a server left out of a command, having a limit (RFC 9738), is in the next one. Raises FetchRefusedError
        where it does not say what it left out.
        """
        for part in uids.to_imap_parts(longest):
            self._limit()
            rest = part
            while rest:
                yield rest
                rest = self._left_out(rest)

    def _fetch(self, uids: UidSet, items: str, modifier: str | None = None) -> list[Line]:
        fetched: list[Line] = []
        for part in self.parts(uids, MAX_UID_SET_LENGTH):
            outcome, lines = self._imap.uid("FETCH", part, items, *([modifier] if modifier else []))
            self._require_ok(outcome, lines)
            fetched += lines
        return fetched

    def _fetch_each(
        self, uids: UidSet, items: str, read: Callable[[list[Line]], Iterable[Fetched]]
    ) -> Iterator[Fetched]:
        """An answer for each of `uids` that is there, also from a server that answers for some at a time unsaid."""
        while uids.ranges:
            fetched = list(read(self._fetch(uids, items)))
            yield from fetched
            rest = uids.minus(UidSet.of(answer.uid for answer in fetched))
            if rest == uids:
                return
            uids = rest

    def _limit(self) -> Limit | None:
        """Where the last command was cut short, told once."""
        return read_limit(self._untagged("MESSAGELIMIT"))

    def _left_out(self, part: str) -> str:
        """Of a set that the last command worked on, what it left out."""
        limit = self._limit()
        if not limit:
            return ""
        asked_for = UidSet.from_imap(part)
        rest = asked_for.below(limit.lowest or 0)
        if limit.lowest is None or rest == asked_for:
            raise FetchRefusedError(f"it works on {limit.most} messages at a time and does not say which it left out")
        return rest.to_imap()

    def _completed(self, found: UidSet, messages: int, ask: Callable[[int, int | None], Named]) -> UidSet:
        """What was found, and where that is fewer than there are, what is found in other ways."""
        lowest = found.ranges[0][0] if found.ranges else 1
        if lowest > 1 and (found.size() < messages or messages in KNOWN_WINDOWS):
            found = UidSet.union([found, *downwards(ask, 1, lowest - 1, to_the_end=True)])
        if found.size() < messages:
            with suppress(FetchRefusedError):
                found = UidSet.union([found, *by_number(self._fetch_numbered, messages)])
        return found

    def _fetch_numbered(self, first: int, last: int) -> list[Line]:
        outcome, lines = self._imap.fetch(f"{first}:{last}", "(UID)")
        self._require_ok(outcome, lines)
        return list(lines)

    def _windows(self, first: int, status: FolderStatus) -> list[tuple[int, int | None]]:
        """Ranges of UIDs that each hold no more messages than one answer can name."""
        if status.messages <= _UIDS_PER_SEARCH:
            return [(first, None)]
        # Cut by UIDs, which do not move when messages go in the meantime, at the messages of these numbers.
        numbers = range(_UIDS_PER_SEARCH, status.messages, _UIDS_PER_SEARCH)
        outcome, lines = self._imap.fetch(",".join(map(str, numbers)), "(UID)")
        self._require_ok(outcome, lines)
        cuts = sorted(uid for uid in read_only_uids(lines) if uid >= first)
        lows = [first, *(cut + 1 for cut in cuts)]
        return list(zip(lows, [*cuts, None], strict=True))

    def _search(self, window: str, *, is_extended: bool) -> UidSet:
        if is_extended:
            self._require_ok(*self._imap.uid("SEARCH", "RETURN (ALL)", f"UID {window}"))
            return _esearch_result(self._untagged("ESEARCH"))
        outcome, lines = self._imap.uid("SEARCH", f"UID {window}")
        self._require_ok(outcome, lines)
        return UidSet.of(read_uids(word for line in lines if isinstance(line, bytes) for word in line.split()))


def _esearch_result(lines: list[Line]) -> UidSet:
    """`(TAG "A1") UID ALL 1:5,7` (RFC 4731 section 3.1); without ALL nothing was found.

    Raises NotUnderstoodError where that is not the answer.
    """
    if not lines:
        raise NotUnderstoodError("no answer to SEARCH RETURN")
    for line in lines:
        words = line.upper().split() if isinstance(line, bytes) else []
        if b"ALL" in words[:-1]:
            try:
                return read_uid_set(words[words.index(b"ALL") + 1])
            except ProtocolError as error:
                raise NotUnderstoodError(error.detail) from error
    return UidSet()
