"""Brings a POP3 maildrop into the account's INBOX.

    list: numbers and sizes (LIST), unique-ids (UIDL)       numbers hold for this connection only
    identify: a key for each message                        its unique-id, else a digest of its content
    fetch messages neither stored nor in quarantine         each batch is one transaction
    wait for the disk, then delete from the server          stored messages only, and only with `pop3_keep_days`

POP3 has no states to compare. Messages that are on the server and not stored are fetched, so the next run simply
continues a run that was killed. A message that is gone from the server stays stored, as in every POP3 client. Whether
a message is read, or in Trash, is known here alone.
"""

import logging
import time
from collections.abc import Generator, Iterator

from sqlalchemy import func

from tasks.engine.run import FolderTally, Run
from tasks.engine.sync.arriving import MAX_ATTEMPTS, store_arriving
from tasks.engine.sync.batches import BrokenOffError, Received, in_batches
from tasks.engine.sync.mailbox import TRY_AGAIN_HOURS
from tasks.engine.sync.unique_ids import other_messages
from tasks.errors import MailServerBusyError, NotFoundError, ProtocolError, TransientError
from tasks.log_fields import logged_with
from tasks.mail.kinds import FolderType
from tasks.mail.message import FetchedMessage
from tasks.mail.pop3.commands import Pop3Connection
from tasks.mail.pop3.uidl import UidlEntry, key_of_header, key_of_message, key_of_size, keys_by_unique_id
from tasks.storage.messages import changes
from tasks.storage.messages.arrivals import Quarantined
from tasks.storage.messages.batch import Batch, UidlNumbering
from tasks.storage.messages.folders import Folder, change_folder, load_folders
from tasks.storage.messages.maildrop import is_known_by_unique_ids, local_folder, missing_keys, part_from, stored

logger = logging.getLogger(__name__)

_INBOX = "INBOX"


def sync_maildrop(run: Run, pop3: Pop3Connection, folder_id: str | None) -> None:
    """Fetch new messages. Raises CutShortError when the time is used up, and the errors of server and storage."""
    with run.transaction() as connection:
        inbox = local_folder(connection, run.account, _INBOX, FolderType.INBOX)
        ours = load_folders(connection, run.account, run.full_since)
        changes.release_quarantined(connection, run.account, TRY_AGAIN_HOURS)
        is_full = run.full_since is not None and not ours[_INBOX].is_verified
        if is_full and run.full_since is not None:
            changes.forget_quarantined(connection, run.account, inbox, run.full_since)
    if folder_id not in (None, inbox.id):
        if folder_id not in {folder.id for folder in ours.values()}:
            raise NotFoundError("folder")
        return  # the Trash, which the server does not have
    run.show(folder=_INBOX, folders_total=1)
    with logged_with(folder=inbox.id):
        _sync_inbox(run, pop3, inbox, is_full=is_full)
    run.show(folder="", folders_done=1)


def _sync_inbox(run: Run, pop3: Pop3Connection, inbox: Folder, *, is_full: bool) -> None:
    tally = run.tally.of(_INBOX)
    started = time.monotonic()
    try:
        keys = identify(run, pop3)
        if is_full:
            _part_from_reused(run, pop3, keys)
        _fetch(run, pop3, inbox, keys, tally)
    finally:
        tally.seconds += time.monotonic() - started
    _finish(run, inbox, keys, pop3.count())
    if run.account.pop3_keep_days is not None:
        _delete_from_server(run, pop3, keys, run.account.pop3_keep_days)


def identify(run: Run, pop3: Pop3Connection) -> dict[UidlEntry, str]:
    """The key of each message on the server, in the server's order."""
    messages, has_unique_ids = pop3.list_messages()
    if not messages:
        return {}
    if not has_unique_ids:
        # The server offers UIDL and gave no unique-ids. Keys made of the contents would make all messages look new,
        # now or when the server gives unique-ids again.
        if "UIDL" in pop3.capabilities:
            raise MailServerBusyError("it refuses to give unique-ids, which it says it has")
        with run.transaction() as connection:
            if is_known_by_unique_ids(connection, run.account):
                raise MailServerBusyError("it refuses to give unique-ids, which it has given before")
    by_number = keys_by_unique_id(messages)
    unknown = [message for message in messages if message.number not in by_number]
    by_number |= dict(_keys_by_content(run, pop3, unknown))
    return {message: by_number[message.number] for message in messages if message.number in by_number}


def _keys_by_content(run: Run, pop3: Pop3Connection, messages: list[UidlEntry]) -> Iterator[tuple[int, str]]:
    remaining = {message.number: message.size for message in messages}
    if not pop3.capabilities or "TOP" in pop3.capabilities:
        for number, header in pop3.headers(list(remaining)):
            run.keep_lease()
            if header is not None and (key := key_of_header(header)):
                del remaining[number]
                yield number, key
    for number in [number for number, size in remaining.items() if size > run.settings.max_message_bytes]:
        yield number, key_of_size(remaining.pop(number))
    for message in pop3.stream_messages(list(remaining)):
        run.keep_lease()
        # A message that the server refuses gets no key; the next sync asks for it again.
        if isinstance(message, FetchedMessage):
            yield message.uid, key_of_message(message.raw) if message.raw is not None else key_of_size(message.size)


def _part_from_reused(run: Run, pop3: Pop3Connection, keys: dict[UidlEntry, str]) -> None:
    """Have messages fetched that got the unique-ids of stored messages. The stored ones stay, like all messages that
    are gone from the server."""
    with run.transaction() as connection:
        known = stored(connection, run.account, set(keys.values()))
    odd = {m: known[key] for m, key in keys.items() if key in known and m.size != known[key].size}
    others = other_messages(pop3, odd)
    if others:
        logger.warning("%d messages have unique-ids of others; they are fetched", len(others))
        with run.transaction() as connection:
            part_from(connection, run.account, {keys[message] for message in others})


def _fetch(run: Run, pop3: Pop3Connection, inbox: Folder, keys: dict[UidlEntry, str], tally: FolderTally) -> None:
    with run.transaction() as connection:
        missing = missing_keys(connection, run.account, keys.values())
    # Copies of the same message have the same key, so this fetches one of them.
    wanted = {key: message for message, key in keys.items() if key in missing}
    if not wanted:
        return
    run.show(messages_total=run.progress.messages_done + len(wanted))
    arriving = _Receiver(run, pop3, inbox).receive(wanted)
    numbering = UidlNumbering({message.number: key for key, message in wanted.items()})
    batches = in_batches(run, inbox, arriving, len(wanted))
    store_arriving(run, inbox, numbering, batches, tally, interrupt=pop3.abandon)


def fetch_again(run: Run, pop3: Pop3Connection, folder: Folder, wanted: dict[str, UidlEntry]) -> Generator[Batch]:
    """Fetch stored messages again, by their keys. They come in batches like new messages."""
    return in_batches(run, folder, _Receiver(run, pop3, folder).receive(wanted), len(wanted))


class _Receiver:
    """Receives messages. A message at which the connection broke before comes last, in a batch of its own."""

    def __init__(self, run: Run, pop3: Pop3Connection, inbox: Folder) -> None:
        self._settings, self._pop3, self._inbox = run.settings, pop3, inbox
        self._delivered = False

    def receive(self, wanted: dict[str, UidlEntry]) -> Iterator[Received]:
        """Receive the messages, last of all one at which the connection broke before.

        If the other messages arrive, that message is the cause;
        if the connection breaks at others as well, the server is.
        """
        suspect = wanted.get(self._inbox.suspect_uidl or "")
        others = [message for message in wanted.values() if message is not suspect]
        yield from self._receive(others, attempts=0)
        if suspect:
            yield from self._receive([suspect], attempts=self._inbox.suspect_attempts)

    def _receive(self, messages: list[UidlEntry], attempts: int) -> Iterator[Received]:
        received = Received(self._settings)
        for message in messages:
            if message.size > self._settings.max_message_bytes:
                received.add(FetchedMessage(message.number, (), None, message.size, None))
        waiting = [m.number for m in messages if m.size <= self._settings.max_message_bytes]
        done = 0
        try:
            for answer in self._pop3.stream_messages(waiting):
                done += 1
                if isinstance(answer, FetchedMessage):
                    self._delivered = True
                    received.add(answer)
                elif self._delivered or attempts + 1 >= MAX_ATTEMPTS:
                    received.quarantined.append(Quarantined(answer.number, "refused", answer.words, 0, None))
                else:
                    # The fault may be the server's and not the message's: the message gets a few tries.
                    raise BrokenOffError(answer.number, ProtocolError(f"it refuses a message: {answer.words}"))
                if received.is_full:
                    yield received
                    received = Received(self._settings)
        except TransientError as error:
            yield received
            raise BrokenOffError(waiting[min(done, len(waiting) - 1)], error) from error
        yield received


def _finish(run: Run, inbox: Folder, keys: dict[UidlEntry, str], count: int) -> None:
    """Store the folder's counts.

    LIST may name fewer messages than STAT counts (`count`), and some may have no key.
    """
    state: dict[str, object] = {"suspect_uidl": None, "suspect_attempts": 0, "synced_at": func.now()}
    if run.full_since is not None:
        state["verified_at"] = func.now()
    # This commit waits for the disk, because the next step deletes messages on the server, which must be safe here.
    with run.transaction(durable=True) as connection:
        if run.full_since is not None:
            changes.recount(connection, run.account, inbox)
        missing = max(count - len(keys), 0) + len(missing_keys(connection, run.account, keys.values()))
        state |= {"server_count": count, "missing_count": missing, "missing_reason": "listing" if missing else None}
        change_folder(connection, run.account, inbox.id, state)


def _delete_from_server(run: Run, pop3: Pop3Connection, keys: dict[UidlEntry, str], days: int) -> None:
    with run.transaction() as connection:
        due = stored(connection, run.account, set(keys.values()), days)
    doomed = {message: due[key] for message, key in keys.items() if key in due}
    others = other_messages(pop3, doomed)
    refused = pop3.delete([message.number for message in doomed if message not in others])
    if doomed:
        logger.info("%d messages deleted from the server", len(doomed) - len(others) - len(refused))
    if others:
        logger.warning("%d messages have unique-ids of others; they are left on the server", len(others))
    if refused:
        logger.warning("the server refuses to delete %d messages: %s", len(refused), refused[0].words)
