"""Fetches new messages as the server streams them, cuts them into batches, and parses them.

Three things go on at once: one batch arrives, the one before is parsed, the one before that is stored.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter

from tasks.engine.run import Run
from tasks.errors import MailServerBusyError, MessageUnparsableError, TransientError
from tasks.mail.flags import read_flags
from tasks.mail.imap import FetchRefusedError, ImapConnection
from tasks.mail.imap_responses import FetchedMessage
from tasks.mail.parse import parse
from tasks.mail.uidset import UidSet
from tasks.settings import SyncSettings
from tasks.storage.folders import Folder
from tasks.storage.messages import Arrival, Batch, Quarantined, prepare

logger = logging.getLogger(__name__)

# So many are asked for with one command: enough to make the pause between two rare.
_MESSAGES_PER_COMMAND = 5_000

# Sanitising HTML and digesting attachments, two thirds of the work, run outside the interpreter's lock.
_PARSERS = 2

# A server that refuses so many messages in a row, and gave none, has a problem of its own.
_REFUSALS_IN_A_ROW = 10

# A message that broke the connection this often in a row is set aside.
MOST_ATTEMPTS = 3


class BrokenOffError(Exception):
    """The connection broke when message `uid` was to come."""

    def __init__(self, uid: int, error: TransientError) -> None:
        super().__init__(uid, error)
        self.uid, self.error = uid, error


def fetch_batches(run: Run, imap: ImapConnection, folder: Folder, uids: UidSet) -> Generator[Batch]:
    """The messages `uids` in batches ready to be stored.

    Raises BrokenOffError for a connection that breaks, after what arrived before, and MailServerBusyError for a
    server that refuses all.
    """
    receiver = _Receiver(run, imap, folder)
    with ThreadPoolExecutor(_PARSERS, thread_name_prefix="parse") as parsers:
        parsing: Callable[[], Batch] | None = None
        try:
            for received in receiver.receive(uids):
                started = _start_parsing(parsers, folder, received)
                if parsing:
                    yield parsing()
                parsing = started
        except (BrokenOffError, TransientError):
            if parsing:
                yield parsing()
            raise
        if parsing:
            yield parsing()


class _Received:
    """Messages that will be one batch. After it, all UIDs below `uidnext` are accounted for."""

    def __init__(self, settings: SyncSettings) -> None:
        self._settings = settings
        self._bytes = 0
        self.messages: list[FetchedMessage] = []
        self.quarantined: list[Quarantined] = []
        self.uidnext = 1

    def add(self, message: FetchedMessage) -> None:
        if message.raw is None:
            detail = f"{message.size} bytes; SYNC_MAX_MESSAGE_BYTES is {self._settings.max_message_bytes}"
            self.quarantined.append(Quarantined(message.uid, "too_large", detail, message.size, None))
        else:
            self.messages.append(message)
            self._bytes += len(message.raw)

    @property
    def is_full(self) -> bool:
        return len(self.messages) >= self._settings.batch_size or self._bytes >= self._settings.batch_bytes


class _Receiver:
    """Receives messages, and asks singly for those that a server refuses among others."""

    def __init__(self, run: Run, imap: ImapConnection, folder: Folder) -> None:
        self._settings, self._imap, self._folder = run.settings, imap, folder
        self._delivered = False
        self._refusals = 0

    def receive(self, uids: UidSet) -> Iterator[_Received]:
        """All but a message that broke the connection before, then that one.

        If the others come, it is the message; if they break the connection as well, it is the server.
        """
        suspect = self._folder.suspect_uid
        others = uids if suspect is None else uids.without(suspect)
        for part in others.split(_MESSAGES_PER_COMMAND):
            yield from self._receive_part(part, suspect if others != uids else None)
        if suspect is not None and others != uids:
            yield from self._receive_part(UidSet.of([suspect]), None)

    def _receive_part(self, part: UidSet, outstanding: int | None) -> Iterator[_Received]:
        # The checkpoint never passes a message that is still outstanding.
        highest = part.ranges[-1][1] + 1
        end = min(highest, outstanding or highest)
        waiting = dict.fromkeys(part.uids())
        received = _Received(self._settings)
        last = 0
        try:
            for message in self._imap.stream_messages(part):
                if message.uid not in waiting:
                    continue  # a server may tell of any message at any time
                del waiting[message.uid]
                self._delivered, last = True, message.uid
                received.add(message)
                if received.is_full:
                    # The first that is still to come; a dict keeps its order, and messages come in theirs.
                    received.uidnext = min(next(iter(waiting), end), end)
                    yield received
                    received = _Received(self._settings)
        except FetchRefusedError as refusal:
            self._receive_singly(list(waiting), received, refusal)
        except TransientError as error:
            yield received
            following = (uid for uid in waiting if uid > last)
            raise BrokenOffError(next(following, None) or next(iter(waiting), last), error) from error
        else:
            if waiting:
                # Gone in the meantime, or without content.
                self._receive_singly(list(self._imap.fetch_sizes(UidSet.of(waiting))), received, None)
        received.uidnext = end
        yield received

    def _receive_singly(self, uids: list[int], received: _Received, refusal: FetchRefusedError | None) -> None:
        refused: list[Quarantined] = []
        for uid in uids:
            try:
                given = [message for message in self._imap.stream_messages(UidSet.of([uid])) if message.uid == uid]
            except FetchRefusedError as error:
                refused.append(Quarantined(uid, "refused", error.detail, 0, None))
                self._refusals += 1
                if self._refusals >= _REFUSALS_IN_A_ROW and not self._delivered:
                    raise MailServerBusyError(f"it refuses to give messages: {error.detail}") from error
            except TransientError as error:
                raise BrokenOffError(uid, error) from error
            else:
                self._delivered, self._refusals = self._delivered or bool(given), 0
                if given:
                    received.add(given[0])
                elif refusal is None:
                    refused.append(Quarantined(uid, "refused", "the server gives no content", 0, None))
        if refused and refusal and not self._delivered:
            self._doubt(refused[0].uid, refusal)
        received.quarantined += refused

    def _doubt(self, uid: int, refusal: FetchRefusedError) -> None:
        # Nothing has been delivered yet, so it may be the server and not the message: give it a few tries.
        attempts = self._folder.suspect_attempts if self._folder.suspect_uid == uid else 0
        if attempts + 1 < MOST_ATTEMPTS:
            raise BrokenOffError(uid, refusal)


def _start_parsing(parsers: ThreadPoolExecutor, folder: Folder, received: _Received) -> Callable[[], Batch]:
    """Parse in the background; what is returned waits for it."""
    shares = [received.messages[start::_PARSERS] for start in range(_PARSERS)]
    parsed = parsers.map(partial(_parse_all, folder), shares)

    def finish() -> Batch:
        items = [item for share in parsed for item in share]
        arrivals = sorted((item for item in items if isinstance(item, Arrival)), key=attrgetter("uid"))
        quarantined = [item for item in items if isinstance(item, Quarantined)]
        return Batch(arrivals, [*received.quarantined, *quarantined], received.uidnext)

    return finish


def _parse_all(folder: Folder, messages: list[FetchedMessage]) -> list[Arrival | Quarantined]:
    return [_parse(folder, message) for message in messages]


def _parse(folder: Folder, message: FetchedMessage) -> Arrival | Quarantined:
    raw = message.raw or b""
    try:
        flags = read_flags(message.flags, folder.type)
        return prepare(message.uid, flags, message.received_at, message.size, raw, parse(raw))
    except MessageUnparsableError as error:
        return Quarantined(message.uid, "unparsable", error.detail, message.size, raw)
    except Exception as error:
        # A defect of the parser must not stop a folder; the bytes are kept to find it.
        logger.exception("parser failed", extra={"folder_id": folder.id, "uid": message.uid})
        return Quarantined(message.uid, "parser_failed", type(error).__name__, message.size, raw)
