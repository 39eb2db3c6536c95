"""Turns arriving messages into batches ready to be stored, for IMAP and POP3.

Three things go on at once: one batch arrives, the one before is parsed, the one before that is stored.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from operator import attrgetter
from types import TracebackType
from typing import Self

from tasks import log_fields
from tasks.engine.parser_process import ParserProcess
from tasks.engine.parsing import Destination, to_rows
from tasks.engine.run import Run
from tasks.engine.spam import recipient_for
from tasks.errors import TransientError
from tasks.mail.message import FetchedMessage
from tasks.settings import SyncSettings
from tasks.storage.messages.arrivals import Arrival, Quarantined
from tasks.storage.messages.batch import Batch
from tasks.storage.messages.folders import Folder

# Sanitising HTML and digesting attachments, a good part of the work, run outside the interpreter's lock.
_PARSERS = 2

# From this many messages on, a parser process saves more time than its start takes.
_MANY = 2_000

# How many messages a parser takes at a time; the parser that is done first takes the next messages.
_SHARE = 32


class BrokenOffError(Exception):
    """The connection broke when the message with this UID was to arrive."""

    def __init__(self, uid: int, error: TransientError) -> None:
        super().__init__(uid, error)
        self.uid, self.error = uid, error


class Received:
    """Fetched messages that become one batch. Once it is stored, all messages with UIDs below `uidnext` are known."""

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


def in_batches(run: Run, folder: Folder, arriving: Iterator[Received], expected: int) -> Generator[Batch]:
    """The arriving messages in batches, parsed and checked for spam. An error of `arriving` is raised after the
    batches of the messages that arrived before the error.

    `expected` is roughly the number of messages.
    """
    destination = Destination(folder.id, folder.type, recipient_for(run.account, folder.type))
    process = ParserProcess(destination) if run.has_killed or expected >= _MANY else None
    with _Parsers(destination, process, in_process_only=run.has_killed) as parsers:
        parsing: Callable[[], Batch] | None = None
        try:
            for received in arriving:
                started = parsers.start(received)
                if parsing:
                    yield parsing()
                parsing = started
        except (BrokenOffError, TransientError):
            if parsing:
                yield parsing()
            raise
        if parsing:
            yield parsing()


class _Parsers:
    """Parses in the background in threads; for many messages, one of the threads hands its work to a parser process.

    With `in_process_only` all messages are parsed in the parser process: a message that ends the process goes into
    quarantine and does not end the worker.
    """

    def __init__(self, destination: Destination, process: ParserProcess | None, *, in_process_only: bool) -> None:
        self._destination = destination
        self._process = process
        self._process_is_taken = threading.Lock()
        self._in_process_only = in_process_only
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self._process:
            self._open.enter_context(self._process)
        count = 1 if self._in_process_only else _PARSERS
        threads = ThreadPoolExecutor(count, "parse", log_fields.use, (log_fields.current(),))
        self._threads = self._open.enter_context(threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def start(self, received: Received) -> Callable[[], Batch]:
        """Begin to parse messages in threads. Returns a function that waits for the batch and returns the batch."""
        messages = received.messages
        shares = [messages[start : start + _SHARE] for start in range(0, len(messages), _SHARE)]
        parsed = self._threads.map(self._parse, shares)

        def finish() -> Batch:
            items = [item for share in parsed for item in share]
            arrivals = sorted((item for item in items if isinstance(item, Arrival)), key=attrgetter("uid"))
            quarantined = [item for item in items if isinstance(item, Quarantined)]
            return Batch(arrivals, [*received.quarantined, *quarantined], received.uidnext)

        return finish

    def _parse(self, messages: list[FetchedMessage]) -> list[Arrival | Quarantined]:
        if self._process and self._process_is_taken.acquire(blocking=False):
            try:
                if self._in_process_only:
                    self._process.wait_until_ready()
                if self._process.is_ready:
                    return self._process.to_rows(messages)
            finally:
                self._process_is_taken.release()
        return [to_rows(self._destination, message) for message in messages]
