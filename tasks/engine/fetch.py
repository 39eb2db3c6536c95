"""Fetches new messages in batches bounded by number and by bytes, and parses them.

Three things go on at once: the server sends one batch, the one before is parsed, the one before that is stored.
"""

import logging
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from tasks.engine.run import Run
from tasks.errors import MailServerBusyError, MessageUnparsableError, TransientError
from tasks.mail.flags import read_flags
from tasks.mail.imap import FetchRefusedError, ImapConnection
from tasks.mail.imap_responses import FetchedMessage
from tasks.mail.parse import parse
from tasks.mail.uidset import UidSet
from tasks.storage.folders import Folder
from tasks.storage.messages import Arrival, Batch, Quarantined, prepare

logger = logging.getLogger(__name__)

# Sizes are asked for so many messages at a time: enough to make the extra round trip rare.
_SIZES_PER_REQUEST = 2000

# Sanitising HTML and digesting attachments, two thirds of the work, run outside the interpreter's lock.
_PARSERS = 2

# A server that refuses so many messages in a row, and gave none, has a problem of its own.
_REFUSALS_IN_A_ROW = 10

# A message that broke the connection this often, fetched alone, is set aside.
MOST_ATTEMPTS = 3


class BatchFailedError(Exception):
    """The connection broke while messages `first` to `last` were being fetched."""

    def __init__(self, first: int, last: int, error: TransientError) -> None:
        super().__init__(first, last, error)
        self.first, self.last, self.error = first, last, error


class _Plan(NamedTuple):
    sizes: dict[int, int]
    too_large: list[Quarantined]
    last: int


def fetch_batches(run: Run, imap: ImapConnection, folder: Folder, uids: UidSet) -> Generator[Batch]:
    """The messages `uids` in ascending order, in batches ready to be stored.

    Raises BatchFailedError for a connection that breaks, and MailServerBusyError for a server that refuses all.
    """
    fetcher = _Fetcher(run, imap, folder)
    plans = _plan(run, imap, folder, uids)
    plan = next(plans, None)
    if plan:
        fetcher.request(plan)
    with ThreadPoolExecutor(_PARSERS, thread_name_prefix="parse") as parsers:
        parsing: Callable[[], Batch] | None = None
        while plan:
            try:
                messages, refused = fetcher.receive(plan)
                following = next(plans, None)
                if following:
                    fetcher.request(following)
            except (BatchFailedError, TransientError):
                # What arrived before the connection broke is stored all the same.
                if parsing:
                    yield parsing()
                raise
            started = _start_parsing(parsers, folder, plan, messages, refused)
            if parsing:
                yield parsing()
            parsing, plan = started, following
        if parsing:
            yield parsing()


class _Fetcher:
    """Asks for batches and falls back to single messages where the server refuses a batch."""

    def __init__(self, run: Run, imap: ImapConnection, folder: Folder) -> None:
        self._run, self._imap, self._folder = run, imap, folder
        self._delivered = False
        self._refusals = 0

    def request(self, plan: _Plan) -> None:
        if plan.sizes:
            with _blaming(plan.sizes):
                self._imap.request_messages(UidSet.of(plan.sizes))

    def receive(self, plan: _Plan) -> tuple[list[FetchedMessage], list[Quarantined]]:
        if not plan.sizes:
            return [], []
        with _blaming(plan.sizes):
            try:
                messages, refused = self._imap.receive_messages(), list[Quarantined]()
            except FetchRefusedError as refusal:
                messages, refused = self._one_by_one(plan.sizes, refusal)
            self._delivered = self._delivered or bool(messages)
            answered = {message.uid for message in messages} | {quarantined.uid for quarantined in refused}
            if unanswered := plan.sizes.keys() - answered:
                more, withheld = self._ask_again(UidSet.of(unanswered))
                messages, refused = [*messages, *more], [*refused, *withheld]
        return messages, refused

    def _ask_again(self, uids: UidSet) -> tuple[list[FetchedMessage], list[Quarantined]]:
        """Of messages that came without content, those that are gone are gone; the others are asked for singly."""
        messages: list[FetchedMessage] = []
        withheld: list[Quarantined] = []
        for uid, size in self._imap.fetch_sizes(uids).items():
            self._imap.request_messages(UidSet.of([uid]))
            given = [message for message in self._imap.receive_messages() if message.uid == uid]
            messages += given
            if not given:
                withheld.append(Quarantined(uid, "refused", "the server gives no content", size, None))
        return messages, withheld

    def _one_by_one(
        self, sizes: dict[int, int], refusal: FetchRefusedError
    ) -> tuple[list[FetchedMessage], list[Quarantined]]:
        messages: list[FetchedMessage] = []
        refused: dict[int, FetchRefusedError] = {}
        for uid in sizes:
            try:
                with _blaming([uid]):
                    self._imap.request_messages(UidSet.of([uid]))
                    messages += self._imap.receive_messages()
                self._delivered, self._refusals = True, 0
            except FetchRefusedError as error:
                refused[uid] = error
                self._refusals += 1
                if self._refusals >= _REFUSALS_IN_A_ROW and not self._delivered:
                    raise MailServerBusyError(f"it refuses to give messages: {refusal.detail}") from error
        if refused and not self._delivered:
            self._doubt(refused)
        return messages, [
            Quarantined(uid, "refused", error.detail, sizes[uid], None) for uid, error in refused.items()
        ]

    def _doubt(self, refused: dict[int, FetchRefusedError]) -> None:
        # Nothing has been delivered yet, so it may be the server and not the message: give it a few tries.
        first, error = next(iter(refused.items()))
        attempts = self._folder.suspect_attempts if self._folder.suspect_uid == first else 0
        if attempts + 1 < MOST_ATTEMPTS:
            raise BatchFailedError(first, first, error)


@contextmanager
def _blaming(uids: Collection[int]) -> Iterator[None]:
    """Names the messages that were being fetched when the connection broke."""
    try:
        yield
    except FetchRefusedError:
        raise
    except TransientError as error:
        raise BatchFailedError(min(uids), max(uids), error) from error


def _plan(run: Run, imap: ImapConnection, folder: Folder, uids: UidSet) -> Iterator[_Plan]:
    """Cut `uids` into batches. Asks for sizes only while no batch is on its way."""
    remaining = uids.uids()
    while chunk := list(islice(remaining, _SIZES_PER_REQUEST)):
        sizes = imap.fetch_sizes(UidSet.of(chunk))
        batch: dict[int, int] = {}
        too_large: list[Quarantined] = []
        for uid in chunk:
            size = sizes.get(uid)
            if size is None:
                continue  # expunged in the meantime
            if batch and _is_full(run, folder, batch, size):
                yield _Plan(batch, too_large, next(reversed(batch)))
                batch, too_large = {}, []
            if size > run.settings.max_message_bytes:
                detail = f"{size} bytes; SYNC_MAX_MESSAGE_BYTES is {run.settings.max_message_bytes}"
                too_large.append(Quarantined(uid, "too_large", detail, size, None))
            else:
                batch[uid] = size
        yield _Plan(batch, too_large, chunk[-1])


def _is_full(run: Run, folder: Folder, batch: dict[int, int], size: int) -> bool:
    if folder.suspect_uid is not None and next(iter(batch)) <= folder.suspect_uid:
        return True
    settings = run.settings
    return len(batch) >= settings.batch_size or sum(batch.values()) + size > settings.batch_bytes


def _start_parsing(
    parsers: ThreadPoolExecutor,
    folder: Folder,
    plan: _Plan,
    messages: list[FetchedMessage],
    refused: list[Quarantined],
) -> Callable[[], Batch]:
    """Parse in the background; what is returned waits for it."""
    # By UID and only what was asked for: a server may tell of any message at any time.
    wanted = list({message.uid: message for message in messages if message.uid in plan.sizes}.values())
    shares = [wanted[start::_PARSERS] for start in range(_PARSERS)]
    parsed = parsers.map(partial(_parse_all, folder, plan.sizes), shares)

    def finish() -> Batch:
        items = [item for share in parsed for item in share]
        arrivals = sorted((item for item in items if isinstance(item, Arrival)), key=attrgetter("uid"))
        quarantined = [item for item in items if isinstance(item, Quarantined)]
        return Batch(arrivals, [*plan.too_large, *refused, *quarantined], plan.last + 1)

    return finish


def _parse_all(folder: Folder, sizes: dict[int, int], messages: list[FetchedMessage]) -> list[Arrival | Quarantined]:
    return [_parse(folder, message, sizes[message.uid]) for message in messages]


def _parse(folder: Folder, message: FetchedMessage, size: int) -> Arrival | Quarantined:
    try:
        flags = read_flags(message.flags, folder.type)
        return prepare(message.uid, flags, message.received_at, size, parse(message.raw))
    except MessageUnparsableError as error:
        return Quarantined(message.uid, "unparsable", error.detail, size, message.raw)
    except Exception as error:
        # A defect of the parser must not stop a folder; the bytes are kept to find it.
        logger.exception("parser failed", extra={"folder_id": folder.id, "uid": message.uid})
        return Quarantined(message.uid, "parser_failed", type(error).__name__, size, message.raw)
