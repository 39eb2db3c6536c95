"""SEARCH, and FETCH of many messages, on servers that answer only for a part of them at a time.

A server may limit the number of messages that one command works on: it then works on the messages with the highest
UIDs, and tells the lowest UID that it has worked on (MESSAGELIMIT, RFC 9738 section 3.1). Other servers name fewer
messages than they count, without telling. Both are asked again for the UIDs below the lowest one named, and in the
end by message numbers instead of SEARCH.
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
from tasks.mail.imap.session import NotUnderstoodError
from tasks.mail.imap.uidset import UidSet
from tasks.mail.session import CommandRefusedError

Fetched = TypeVar("Fetched", FetchedFlags, FetchedEnvelope)

# imaplib refuses lines above 1,000,000 bytes; this many UIDs of at most eleven bytes fit.
_UIDS_PER_SEARCH = 80_000

# Servers have to take lines of 8,192 bytes (RFC 7162 section 4), and some take no more. This part is for the UIDs.
MAX_UID_SET_LENGTH = 7_900

# Not strftime, which would write the names in the language of the machine.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Providers show no more than so many messages of a folder, the newest: Yahoo and AOL 10,000
# (https://help.yahoo.com/kb/SLN28681.html), Gmail as many of these as its user chose (its settings, "Folder size
# limits"). The number of messages that they say there are (EXISTS) is then that of the window.
KNOWN_WINDOWS = frozenset((1_000, 2_000, 5_000, 10_000))

# How many commands are sent at most to find out which messages one folder has.
_MAX_COMMANDS = 2_000
# Message numbers that are asked for at a time: each answer is a line in memory.
_NUMBERS_PER_FETCH = 50_000


class Limit(NamedTuple):
    """A command was cut short: it works on `most` messages at a time, and did not look at UIDs below `lowest`."""

    most: int
    lowest: int | None


class Named(NamedTuple):
    """The UIDs that an answer names, and the limit at which the server cut the answer short."""

    uids: UidSet
    limit: Limit | None = None


def read_limit(lines: Iterable[Line]) -> Limit | None:
    """The limit in `[MESSAGELIMIT 1000 23221]`, from a tagged OK or an untagged NO. The last line counts."""
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

    With `to_the_end`, asks again even if the server does not tell a limit, until it names no more messages.
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
    """SEARCH, and FETCH of any number of messages, also on servers that limit what one command works on."""

    def search(self, first: int, status: FolderStatus) -> UidSet:
        """The UIDs from `first` up in the open folder. Raises CommandRefusedError where the server does not say.

        With `first` 1, the caller has to compare the number of UIDs with the messages in `status`, because a server
        may name fewer whatever is asked.

        `n:*` always names the last message, also when its UID is below n (RFC 9051 section 9), so what is below is
        taken out again.
        """
        with self._imap.translating_errors("searching"):
            windows = self._windows(first, status)

            def ask(extension: str | None) -> UidSet:
                def named(low: int, high: int | None) -> Named:
                    self._limit()
                    uids = self._search(f"{low}:{high or '*'}", is_extended=bool(extension))
                    return Named(uids, self._limit())

                found = UidSet.union(uids for window in windows for uids in downwards(named, *window))
                if first == 1 and status.messages and not found.ranges:
                    # An answer without a result must not count as an empty
                    # folder, or all stored messages would be removed.
                    kind = NotUnderstoodError if extension else CommandRefusedError
                    raise kind(f"SEARCH names none of the {status.messages} messages")
                return self._completed(found, status.messages, named) if first == 1 else found

            return self._without_refused(("ESEARCH",), ask).from_uid(first)

    def existing(self, uids: UidSet) -> UidSet:
        """Which of `uids` the open folder has, asked for with FETCH and not with SEARCH."""
        with self._imap.translating_errors("fetching UIDs"):
            there = UidSet.of(read_only_uids(self._fetch(uids, "(UID)")))
            return uids.minus(uids.minus(there))

    def find_by_message_id(self, message_id: str, since: date) -> bool:
        """Whether the open folder has a message with this Message-ID that arrived since this day.

        The day limits the messages that the server has to search.
        Raises CommandRefusedError where the server gives no result.
        """
        criteria = f"SINCE {imap_date(since)} HEADER Message-ID {quote(message_id)}"

        def ask(first: int, last: int | None) -> Named:
            self._limit()
            outcome, lines = self._imap.uid("SEARCH", f"UID {first}:{last} {criteria}" if last else criteria)
            self._require_ok(outcome, lines)
            words = (word for line in lines if isinstance(line, bytes) for word in line.split())
            return Named(UidSet.of(read_uids(words)), self._limit())

        with self._imap.translating_errors("searching"):
            return any(found.ranges for found in downwards(ask, 1, None))

    @property
    def message_limit(self) -> int | None:
        """On how many messages a command works at most, if the server announces a limit (RFC 9738 section 3)."""
        limits = [name.partition("=")[2] for name in self.capabilities if name.startswith("MESSAGELIMIT=")]
        return next((int(digits) for digits in limits if digits.isdigit() and int(digits)), None)

    def parts(self, uids: UidSet, longest: int) -> Iterator[str]:
        """`uids` as sets of at most `longest` characters, one for each command that works on them.

        UIDs that a server with a limit (RFC 9738) left out of a command are in the next set. Raises
        CommandRefusedError if the server does not tell which UIDs it left out.
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
        """An answer for each of `uids` that is there, also from
        servers that answer for only some at a time without telling."""
        while uids.ranges:
            fetched = list(read(self._fetch(uids, items)))
            yield from fetched
            rest = uids.minus(UidSet.of(answer.uid for answer in fetched))
            if rest == uids:
                return
            uids = rest

    def _limit(self) -> Limit | None:
        """The limit at which the last command was cut short. Returned only once."""
        return read_limit(self._untagged("MESSAGELIMIT"))

    def _left_out(self, part: str) -> str:
        """The UIDs of a set that the last command left out."""
        limit = self._limit()
        if not limit:
            return ""
        asked_for = UidSet.from_imap(part)
        rest = asked_for.below(limit.lowest or 0)
        if limit.lowest is None or rest == asked_for:
            raise CommandRefusedError(
                f"it works on {limit.most} messages at a time and does not say which it left out"
            )
        return rest.to_imap()

    def _completed(self, found: UidSet, messages: int, ask: Callable[[int, int | None], Named]) -> UidSet:
        """The found UIDs; if they are fewer than the folder's messages, also UIDs that are found in other ways."""
        lowest = found.ranges[0][0] if found.ranges else 1
        if lowest > 1 and (found.size() < messages or messages in KNOWN_WINDOWS):
            found = UidSet.union([found, *downwards(ask, 1, lowest - 1, to_the_end=True)])
        if found.size() < messages:
            with suppress(CommandRefusedError):
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
        # Ranges begin at the UIDs of the messages with these numbers:
        # UIDs stay when messages are removed meanwhile, numbers do not.
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
    """The UIDs in `(TAG "A1") UID ALL 1:5,7` (RFC 4731 section 3.1). Without ALL nothing was found.

    Raises NotUnderstoodError where there is no such answer.
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
