"""Decides when a message counts as gone from the server, and which messages of a folder are missing here.

A stored message is removed only if all of this holds:

    SEARCH does not name the message, and names as many messages as the server counts (EXISTS)
    UID FETCH n (UID), which asks for the message by its UID, gives nothing
    the message cannot have left the window of a server that shows only its newest messages

Such a window is the hard case. EXISTS counts only the messages in the window, so when a full window slides
by one message, the folder looks complete and the oldest message looks expunged. But three things are known
about windows: the size is a round number; EXISTS stays at the size while mail arrives, so it has not
fallen since the last sync; and messages that leave the window have the lowest UIDs of all. If all three
hold, stored messages below the lowest UID that the server shows are kept and counted as hidden. The
folder's row remembers the size, and hidden messages are kept while EXISTS is at the size or less than a
tenth below it, as a provider may take a while to fill the window up. Any other EXISTS proves that there is
no window; then the hidden messages are removed. The price is that a message which its owner removed may
stay here until the number of messages changes. A message that was removed wrongly would never come back.

With QRESYNC a server names removed messages itself (VANISHED). Each of these is asked for by its UID, too. Only in a
folder with a known window they are left to the comparison of all UIDs.
"""

from datetime import timedelta

from sqlalchemy import Connection, func

from tasks.engine.run import Run
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.responses import FolderStatus
from tasks.mail.imap.search import KNOWN_WINDOWS
from tasks.mail.imap.uidset import UidSet
from tasks.storage.messages import changes
from tasks.storage.messages.folders import Folder

# Missing messages are looked for again by the next sync, and after that this often.
_LOOK_AGAIN = timedelta(hours=1)

# The share of a window's size by which the number of messages may fall below the size.
_SLACK = 0.1
_SMALLEST_WINDOW = 10


def is_window(folder: Folder, messages: int) -> bool:
    """Whether `messages`, the number that the server states, may be the size of a window."""
    if folder.window_size is not None:
        return folder.window_size * (1 - _SLACK) <= messages <= folder.window_size
    return _is_round(messages) and (folder.server_count is None or messages >= folder.server_count)


def is_known_window(folder: Folder, messages: int) -> bool:
    """Whether `messages` is the size of a window that the folder
    has shown before, or that providers are known to use."""
    return (folder.window_size is not None or messages in KNOWN_WINDOWS) and is_window(folder, messages)


def gone(imap: ImapConnection, folder: Folder, opened: FolderStatus, present: UidSet, absent: UidSet) -> UidSet:
    """Which messages are gone from the server, of the stored UIDs
    that are `absent` from the UIDs that the server shows."""
    if not absent.ranges:
        return absent
    gone = absent.minus(imap.existing(absent))
    return gone.from_uid(present.ranges[0][0]) if is_window(folder, opened.messages) else gone


def accounted_for(folder: Folder) -> int:
    """How many of the messages that the server shows are stored or in quarantine."""
    return folder.total_count + folder.quarantined_count - folder.hidden_count


def is_as_known(folder: Folder, messages: int) -> bool:
    """Whether UIDs need not be compared: all `messages` are
    accounted for, or the missing ones are not due for a new look.

    If messages were missing, an equal number proves nothing once a new look is due: some stored messages may be gone,
    and the missing ones may be there.
    """
    if folder.hidden_count and not is_window(folder, messages):
        return False
    is_put_off = folder.missing_count > 0 and not folder.is_missing_due
    return accounted_for(folder) + folder.missing_count == messages and (is_put_off or not folder.missing_count)


def standing(
    run: Run, connection: Connection, before: Folder, now: Folder, messages: int, named: int | None
) -> dict[str, object]:
    """The columns that say how complete the folder is, from the folder `before` the sync and `now` after it.

    `messages` is the number that the server states. `named` is
    how many of them it named, None if UIDs were not compared.
    """
    state: dict[str, object] = {"server_count": messages}
    missing = max(messages - accounted_for(now), 0)
    if missing and named is None:
        return state | {"missing_count": missing}
    window = now.window_size if is_window(now, messages) else None
    if before.server_count is None and messages in KNOWN_WINDOWS:
        # At the first sync the number is that of a known window. If the message with UID 1 is there, it is no window.
        window = messages if changes.lowest_uid(connection, run.account, now) > 1 else None
    state |= {"window_size": window, "missing_count": missing, "missing_again_at": None, "missing_reason": None}
    if missing:
        wait = _LOOK_AGAIN if before.missing_count else timedelta()
        reason = "search" if named is not None and named < messages else "withheld"
        state |= {"missing_reason": reason, "missing_again_at": func.now() + wait}
    elif window and _may_have_others(before, now, messages):
        state["missing_reason"] = "window"
    return state


def refused(folder: Folder, status: FolderStatus | None) -> dict[str, object]:
    """The columns that say how complete a folder is that could not
    be synced; `status` is the state that LIST gave, if any."""
    missing = max(status.messages - accounted_for(folder), 0) if status else folder.missing_count
    return {"missing_count": missing, "missing_reason": "refused", "missing_again_at": None}


def _may_have_others(before: Folder, now: Folder, messages: int) -> bool:
    """Whether a folder with a window may have messages that were never seen.

    It has none if it was synced before the window was full, and since then often enough that never all known messages
    had left the window between two syncs.
    """
    if now.hidden_count and now.hidden_count >= before.total_count + before.quarantined_count:
        return True
    if before.window_size is not None:
        return before.missing_reason == "window"
    return before.server_count in (None, messages)


def _is_round(number: int) -> bool:
    """Whether the number is a multiple of ten with two significant digits at most."""
    return number >= _SMALLEST_WINDOW and number % 10 ** max(len(str(number)) - 2, 1) == 0
