"""Turns messages as they arrive into batches ready to be stored, whatever protocol they come by.

Three things go on at once: one batch arrives, the one before is parsed, the one before that is stored.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter

from tasks.engine.spam import Judge, judge_for
from tasks.errors import MessageUnparsableError, TransientError
from tasks.mail.flags import read_flags
from tasks.mail.message import FetchedMessage
from tasks.mail.parse import parse
from tasks.settings import SyncSettings
from tasks.storage.accounts import Account
from tasks.storage.folders import Folder
from tasks.storage.messages import Arrival, Batch, Quarantined, prepare

logger = logging.getLogger(__name__)

# Sanitising HTML and digesting attachments, two thirds of the work, run outside the interpreter's lock.
_PARSERS = 2


ParseOne = Callable[[FetchedMessage], Arrival | Quarantined]


class BrokenOffError(Exception):
    """The connection broke when message `uid` was to come."""

    def __init__(self, uid: int, error: TransientError) -> None:
        super().__init__(uid, error)
        self.uid, self.error = uid, error


class Received:
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


def in_batches(account: Account, folder: Folder, arriving: Iterator[Received]) -> Generator[Batch]:
    """What arrives, parsed and checked for spam. An error of `arriving` is raised after what came before it."""
    parse_one = partial(_parse, folder, judge_for(account, folder.type))
    with ThreadPoolExecutor(_PARSERS, thread_name_prefix="parse") as parsers:
        parsing: Callable[[], Batch] | None = None
        try:
            for received in arriving:
                started = _start_parsing(parsers, parse_one, received)
                if parsing:
                    yield parsing()
                parsing = started
        except (BrokenOffError, TransientError):
            if parsing:
                yield parsing()
            raise
        if parsing:
            yield parsing()


def _start_parsing(parsers: ThreadPoolExecutor, parse_one: ParseOne, received: Received) -> Callable[[], Batch]:
    """Parse in the background; what is returned waits for it."""
    shares = [received.messages[start::_PARSERS] for start in range(_PARSERS)]
    parsed = parsers.map(lambda share: [parse_one(message) for message in share], shares)

    def finish() -> Batch:
        items = [item for share in parsed for item in share]
        arrivals = sorted((item for item in items if isinstance(item, Arrival)), key=attrgetter("uid"))
        quarantined = [item for item in items if isinstance(item, Quarantined)]
        return Batch(arrivals, [*received.quarantined, *quarantined], received.uidnext)

    return finish


def _parse(folder: Folder, judge: Judge, message: FetchedMessage) -> Arrival | Quarantined:
    raw = message.raw or b""
    try:
        flags = read_flags(message.flags, folder.type)
        parsed = parse(raw)
        return prepare(
            message.uid, flags, message.received_at, message.size, raw, parsed, judge(parsed), message.thread_id
        )
    except MessageUnparsableError as error:
        return Quarantined(message.uid, "unparsable", error.detail, message.size, raw)
    except Exception as error:
        # A defect of the parser must not stop a folder; the bytes are kept to find it.
        logger.exception("parser failed", extra={"folder_id": folder.id, "uid": message.uid})
        return Quarantined(message.uid, "parser_failed", type(error).__name__, message.size, raw)
