"""Asks an IMAP server for new messages, and cuts what it streams into batches as it arrives."""

from collections.abc import Generator, Iterator

from tasks.engine.run import Run
from tasks.engine.sync.arriving import MAX_ATTEMPTS
from tasks.engine.sync.batches import BrokenOffError, Received, in_batches
from tasks.errors import MailServerBusyError, TransientError
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.uidset import UidSet
from tasks.mail.session import CommandRefusedError
from tasks.storage.messages.arrivals import Quarantined
from tasks.storage.messages.batch import Batch
from tasks.storage.messages.folders import Folder

# How many messages one FETCH asks for: so many that the pauses between commands are rare.
_MESSAGES_PER_COMMAND = 5_000

# If the server refuses this many messages in a row and gives none, the fault is the server's and not the messages'.
_REFUSALS_IN_A_ROW = 10


def fetch_batches(run: Run, imap: ImapConnection, folder: Folder, uids: UidSet) -> Generator[Batch]:
    """The messages `uids` in batches ready to be stored.

    Raises BrokenOffError when the connection breaks, after the messages that arrived before, and MailServerBusyError
    when the server refuses all messages.
    """
    arriving = _Receiver(run, imap, folder).receive(uids)
    return in_batches(run, folder, arriving, uids.size())


class _Receiver:
    """Receives messages, and asks one by one for messages that the server refuses together with others."""

    def __init__(self, run: Run, imap: ImapConnection, folder: Folder) -> None:
        self._settings, self._imap, self._folder = run.settings, imap, folder
        self._delivered = False
        self._refusals = 0

    def receive(self, uids: UidSet) -> Iterator[Received]:
        """Receive the messages, last of all a message at which the connection broke before.

        If the other messages arrive, that message is the cause;
        if the connection breaks at others as well, the server is.
        """
        suspect = self._folder.suspect_uid
        others = uids if suspect is None else uids.minus(UidSet.of([suspect]))
        for part in others.split(_MESSAGES_PER_COMMAND):
            rest = part
            while rest.ranges:
                rest = yield from self._receive_part(rest, suspect if others != uids else None)
        if suspect is not None and others != uids:
            yield from self._receive_part(UidSet.of([suspect]), None)

    def _receive_part(self, part: UidSet, outstanding: int | None) -> Generator[Received, None, UidSet]:
        """Receive the messages `part`.

        Returns those that the server did not give and that are to be asked for again.
        """
        # The checkpoint never passes a message that has not arrived.
        highest = part.ranges[-1][1] + 1
        end = min(highest, outstanding or highest)
        waiting = dict.fromkeys(part.uids())
        received = Received(self._settings)
        rest = UidSet()
        last = 0
        try:
            for message in self._imap.stream_messages(part):
                if message.uid not in waiting:
                    continue  # a server may send data about any message at any time
                del waiting[message.uid]
                self._delivered, last = True, message.uid
                received.add(message)
                if received.is_full:
                    # The first message that has not arrived: a dict keeps the order of the UIDs that were asked for.
                    received.uidnext = min(next(iter(waiting), end), end)
                    yield received
                    received = Received(self._settings)
        except CommandRefusedError as refusal:
            self._receive_singly(list(waiting), received, refusal)
        except TransientError as error:
            yield received
            following = (uid for uid in waiting if uid > last)
            raise BrokenOffError(next(following, None) or next(iter(waiting), last), error) from error
        else:
            # The other messages are gone meanwhile, have no content, or are more than the server gives at a time.
            there = [uid for uid in self._imap.fetch_sizes(UidSet.of(waiting)) if uid in waiting] if waiting else []
            if there and last:
                rest = UidSet.of(waiting)
            elif there:
                self._receive_singly(there, received, None)
                rest = UidSet.of(waiting).minus(UidSet.of(there))
        received.uidnext = min(end, rest.ranges[0][0]) if rest.ranges else end
        yield received
        return rest

    def _receive_singly(self, uids: list[int], received: Received, refusal: CommandRefusedError | None) -> None:
        refused: list[Quarantined] = []
        for uid in uids:
            try:
                given = [message for message in self._imap.stream_messages(UidSet.of([uid])) if message.uid == uid]
            except CommandRefusedError as error:
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

    def _doubt(self, uid: int, refusal: CommandRefusedError) -> None:
        # Nothing has arrived yet, so the fault may be the server's
        # and not the message's: the message gets a few tries.
        attempts = self._folder.suspect_attempts if self._folder.suspect_uid == uid else 0
        if attempts + 1 < MAX_ATTEMPTS:
            raise BrokenOffError(uid, refusal)
