"""Rereading: fetches messages again that an older parser read, and replaces everything derived from their bytes.

    choose messages, within the hourly limits         tasks/storage/messages/rereading.py
    fetch, parse and score them like new mail         the steps of a sync: fetch, batches, arriving
    replace their rows in place                       each batch, and the note that it was read, are one transaction

Rereading comes last among all work: a run gives the account to a sync or a delete within a batch, and ends when other
tasks wait for a worker. Messages that it had fetched and not stored are fetched again the next time.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError

from tasks.engine.connect import connected, connected_pop3
from tasks.engine.lease import leased_run
from tasks.engine.run import CutShortError, Run
from tasks.engine.sync.arriving import MAX_ATTEMPTS, arriving
from tasks.engine.sync.batches import BrokenOffError
from tasks.engine.sync.fetch import fetch_batches
from tasks.engine.sync.maildrop import fetch_again, identify
from tasks.errors import EmailError, LeaseLostError, StorageUnavailableError
from tasks.log_fields import logged_with
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.uidset import UidSet
from tasks.mail.kinds import MailProtocol
from tasks.mail.pop3.commands import Pop3Connection
from tasks.mail.session import CommandRefusedError
from tasks.settings import get_settings
from tasks.storage.messages import rereading
from tasks.storage.messages.batch import Batch
from tasks.storage.messages.folders import Folder, load_folders
from tasks.storage.messages.readings import replace_readings
from tasks.storage.messages.rereading import Waiting
from tasks.storage.session import is_about_the_data, tenant_transaction

# Short, as are the batches, because other work may wait for the run.
_RUN_SECONDS = 20
_BATCH = 100
_MAX_AT_A_TIME = 2_000

_OTHER = "its UID is another message now"


class RereadRequest(NamedTuple):
    """Whose messages are read again. If an earlier run `has_killed` its worker, a process of its own parses."""

    email_client_id: str
    tenant_id: str
    user_id: str
    has_killed: bool = False


@dataclass
class Reread:
    """Counts of what one run did, in messages. `is_done` says whether nothing is left to do for now."""

    read: int = 0
    gone: int = 0
    other: int = 0
    unreadable: int = 0
    left: int = 0
    is_done: bool = False


def reread_account(request: RereadRequest, task_id: str, others_wait: Callable[[], bool]) -> Reread:
    """Read waiting messages again, for some seconds at most, and only while no other run wants the account.

    `others_wait` says whether other tasks wait for a worker. Raises LeaseHeldError while another run is at work on
    the account or its sync is due, NotFoundError for an account that is not the caller's, and the errors of server
    and storage, which are stored on the account as well.
    """
    done, started = Reread(), time.monotonic()
    if get_settings().reread.automatically:
        # Done before taking the lease, which a sync may want, because this reads all rows of the account's messages.
        rereading.ask_for_older(request.tenant_id, request.user_id, request.email_client_id)
    try:
        with leased_run(
            request.tenant_id,
            request.user_id,
            request.email_client_id,
            task_id,
            deadline=started + _RUN_SECONDS,
            patience_ends=started + get_settings().worker.task_soft_time_limit / 2,
            in_background=True,
            has_killed=request.has_killed,
        ) as run:
            run.settings = run.settings.model_copy(update={"batch_size": min(run.settings.batch_size, _BATCH)})
            done.is_done = _Rereader(run, done, others_wait).run()
    except CutShortError:
        pass
    return done


class _Rereader:
    """One run of rereading on one account."""

    def __init__(self, run: Run, done: Reread, others_wait: Callable[[], bool]) -> None:
        self._run, self._done, self._others_wait = run, done, others_wait
        self._limits = get_settings().reread

    def run(self) -> bool:
        """Read until time or limits are used up. Returns whether all messages that may be read now have been read."""
        with self._run.transaction() as connection:
            chosen = rereading.choose(connection, self._run.account, self._limits, _MAX_AT_A_TIME)
        try:
            if chosen and self._run.account.protocol == MailProtocol.POP3:
                with connected_pop3(self._run.account) as pop3:
                    self._from_maildrop(pop3, chosen)
            elif chosen:
                with connected(self._run.account) as imap:
                    self._from_folders(imap, chosen)
        except EmailError as error:
            if not isinstance(error, StorageUnavailableError | LeaseLostError):
                # After any error the account is left alone for an hour.
                with tenant_transaction(self._run.account.tenant_id) as connection:
                    rereading.spend(connection, self._run.account)
            raise
        # This commit waits for the disk, and so makes all batches
        # before it durable. The task is acknowledged afterwards.
        with self._run.transaction(durable=True) as connection:
            following = rereading.choose(connection, self._run.account, self._limits, 1)
            can_go_on = any(not message.attempts for message in following)
            if not can_go_on and rereading.is_waiting(connection, self._run.account):
                # The messages that are left exceed the hour's limits, or have to wait for a sync.
                rereading.spend(connection, self._run.account)
        return not can_go_on

    def _from_folders(self, imap: ImapConnection, chosen: Sequence[Waiting]) -> None:
        for folder, messages in self._by_folder(chosen):
            try:
                opened = imap.select(folder.path)
            except CommandRefusedError:
                self._leave(messages)
                continue
            # Messages of another UIDVALIDITY are left out: the next sync finds out their new UIDs.
            by_uid = {m.imap_uid: m for m in messages if m.imap_uid and m.uidvalidity == opened.uidvalidity}
            self._leave([message for message in messages if message.imap_uid not in by_uid])
            if by_uid:
                batches = fetch_batches(self._run, imap, folder, UidSet.of(by_uid))
                self._replace(folder, batches, by_uid, imap.abandon)

    def _from_maildrop(self, pop3: Pop3Connection, chosen: Sequence[Waiting]) -> None:
        on_server = {key: message for message, key in identify(self._run, pop3).items()}
        for folder, messages in self._by_folder(chosen):
            self._settle("gone", {message.id: None for message in messages if message.uidl not in on_server})
            wanted = {message.uidl: message for message in messages if message.uidl in on_server}
            if wanted:
                listed = {key: on_server[key] for key in wanted if key}
                batches = fetch_again(self._run, pop3, folder, listed)
                self._replace(folder, batches, {listed[k].number: m for k, m in wanted.items() if k}, pop3.abandon)

    def _by_folder(self, chosen: Sequence[Waiting]) -> list[tuple[Folder, list[Waiting]]]:
        with self._run.transaction() as connection:
            folders = {folder.id: folder for folder in load_folders(connection, self._run.account, None).values()}
        messages: dict[str, list[Waiting]] = defaultdict(list)
        for message in chosen:
            messages[message.folder_id].append(message)
        return [(folders[folder_id], found) for folder_id, found in messages.items()]

    def _replace(
        self, folder: Folder, batches: Generator[Batch], wanted: dict[int, Waiting], interrupt: Callable[[], None]
    ) -> None:
        """Replace the `wanted` messages (by UID or number) as they arrive.

        Messages that do not arrive count as gone.
        """
        try:
            stream = arriving(self._run, folder, batches, interrupt=interrupt)
            with logged_with(folder=folder.id), closing(stream):
                for batch in stream:
                    self._store(batch, wanted)
                    for uid in [*(a.uid for a in batch.arrivals), *(q.uid for q in batch.quarantined)]:
                        wanted.pop(uid, None)
                    self._run.check_deadline()
                    if self._others_wait():
                        raise CutShortError
        except BrokenOffError as failure:
            if failure.uid in wanted:
                self._note_break(wanted[failure.uid], failure)
            raise failure.error from failure
        self._settle("gone", {message.id: None for message in wanted.values()})

    def _store(self, batch: Batch, wanted: dict[int, Waiting]) -> None:
        """Store in one transaction the replaced messages, the reasons why others stay as they are, and how much of
        the account's hourly limits was used."""
        readings = {wanted[arrival.uid].id: arrival for arrival in batch.arrivals if arrival.uid in wanted}
        unreadable = {wanted[q.uid].id: f"{q.reason}: {q.detail}" for q in batch.quarantined if q.uid in wanted}
        account = self._run.account
        try:
            with self._run.transaction() as connection:
                replaced, others = replace_readings(connection, account, readings)
                rereading.note_read(connection, account, replaced)
                rereading.settle(connection, account, "other", dict.fromkeys(others, _OTHER))
                rereading.settle(connection, account, "unreadable", unreadable)
                rereading.spend(connection, account, self._share(batch))
        except DBAPIError as error:
            if not is_about_the_data(error):
                raise
            self._store_narrowed(batch, wanted, error)
            return
        self._done.read += len(replaced)
        self._done.other += len(others)
        self._done.unreadable += len(unreadable)
        self._run.progress.messages_done += len(replaced) + len(others) + len(unreadable)

    def _store_narrowed(self, batch: Batch, wanted: dict[int, Waiting], error: DBAPIError) -> None:
        """Store the batch in two halves, to find the message that PostgreSQL refuses; that message stays as it is."""
        if middle := len(batch.arrivals) // 2:
            self._store(batch._replace(arrivals=batch.arrivals[:middle], quarantined=()), wanted)
            self._store(batch._replace(arrivals=batch.arrivals[middle:]), wanted)
            return
        if not batch.arrivals:
            raise error
        detail = f"PostgreSQL refuses it: SQLSTATE {getattr(error.orig, 'pgcode', None)}"
        self._store(batch._replace(arrivals=()), wanted)
        self._settle("unreadable", {wanted[batch.arrivals[0].uid].id: detail})

    def _share(self, batch: Batch) -> float:
        size = sum(len(arrival.raw) for arrival in batch.arrivals)
        number = len(batch.arrivals) + len(batch.quarantined)
        return max(number / self._limits.messages_per_hour, size / self._limits.bytes_per_hour)

    def _settle(self, outcome: str, details: dict[str, str | None]) -> None:
        if not details:
            return
        with self._run.transaction() as connection:
            rereading.settle(connection, self._run.account, outcome, details)
        setattr(self._done, outcome, getattr(self._done, outcome) + len(details))
        self._run.progress.messages_done += len(details)

    def _leave(self, messages: Sequence[Waiting]) -> None:
        if messages:
            with self._run.transaction() as connection:
                rereading.leave(connection, self._run.account, [message.id for message in messages])
            self._done.left += len(messages)

    def _note_break(self, message: Waiting, failure: BrokenOffError) -> None:
        """Note that the connection broke at this message: other
        messages come first, and after some breaks it stays as it is."""
        if message.attempts + 1 >= MAX_ATTEMPTS:
            self._settle("unreadable", {message.id: str(failure.error)})
        else:
            self._leave([message])
