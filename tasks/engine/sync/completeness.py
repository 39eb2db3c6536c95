"""When a message is believed to be gone from the server, and what of a folder is missing here.

A stored message is removed on the word of the server only if all of this holds:

    it is not named       by a SEARCH that names as many messages as the server says there are (EXISTS)
    it is not there       when asked for by its UID: UID FETCH n (UID) gives nothing
    it has not slid out   of the window of a server that shows only its newest messages

Such a window is the hard case: EXISTS is that of the window, so a full window which slid by one looks complete, and
the oldest message looks expunged. But of a window this is known: its size is a round number; EXISTS stays there while
mail arrives, so it has not fallen since the last sync; and what leaves it has the lowest UIDs of all. Where all three
fit, the messages below the lowest UID that the server shows are kept, and counted as hidden. The folder remembers the
size, and keeps them for as long as EXISTS stays at it, or less than a tenth below, which a provider may take a while
to fill up. Any other EXISTS says that there is no window: then what was kept is gone. The price: a message that its
owner removed may stay here until the number of messages changes. What is lost otherwise never comes back.

What QRESYNC says has VANISHED was removed by name. It is asked for by its UID, too, and left to the comparison of all
UIDs only in a folder with a known window.
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

# What is missing is looked for again by the next sync, and then this often.
_LOOK_AGAIN = timedelta(hours=1)

# Of its size, what the number of messages in a window may fall short of it.
_SLACK = 0.1
_SMALLEST_WINDOW = 10


def is_window(folder: Folder, messages: int) -> bool:
    """Whether the `messages` that a server says there are may be no more than it shows."""
    if folder.window_size is not None:
        return folder.window_size * (1 - _SLACK) <= messages <= folder.window_size
    return _is_round(messages) and (folder.server_count is None or messages >= folder.server_count)


def is_known_window(folder: Folder, messages: int) -> bool:
    """The same, of the sizes that providers are known for, and of what this folder has shown to be one."""
    return (folder.window_size is not None or messages in KNOWN_WINDOWS) and is_window(folder, messages)


def gone(imap: ImapConnection, folder: Folder, opened: FolderStatus, present: UidSet, absent: UidSet) -> UidSet:
    """Which of the UIDs that are stored, and `absent` from all that the server shows, the server has no more."""
    if not absent.ranges:
        return absent
    gone = absent.minus(imap.existing(absent))
    return gone.from_uid(present.ranges[0][0]) if is_window(folder, opened.messages) else gone


def accounted_for(folder: Folder) -> int:
    """How many of the messages that the server shows are here."""
    return folder.total_count + folder.quarantined_count - folder.hidden_count


def is_as_known(folder: Folder, messages: int) -> bool:
    """Whether nothing is to be compared: all `messages` are here, or those that are not need no other look yet.

    Where some were missing, as many as are here need not be the same: some of them may be gone, and those there.
    """
    if folder.hidden_count and not is_window(folder, messages):
        return False
    is_put_off = folder.missing_count > 0 and not folder.is_missing_due
    return accounted_for(folder) + folder.missing_count == messages and (is_put_off or not folder.missing_count)


def standing(
    run: Run, connection: Connection, before: Folder, now: Folder, messages: int, named: int | None
) -> dict[str, object]:
    """The columns that say how complete the folder is: `before` the sync, and `now` that it is over.

    Of the `messages` that the server says there are, it has `named` so many, if they have been compared.
    """
    state: dict[str, object] = {"server_count": messages}
    missing = max(messages - accounted_for(now), 0)
    if missing and named is None:
        return state | {"missing_count": missing}
    window = now.window_size if is_window(now, messages) else None
    if before.server_count is None and messages in KNOWN_WINDOWS:
        # Full at first sight; if it has its first message, it is no window.
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
    """The same columns of a folder that could not be synced; `status` is what LIST said of it, where it did."""
    missing = max(status.messages - accounted_for(folder), 0) if status else folder.missing_count
    return {"missing_count": missing, "missing_reason": "refused", "missing_again_at": None}


def _may_have_others(before: Folder, now: Folder, messages: int) -> bool:
    """Whether a folder with a window may have messages that were never seen.

    Not if it was seen before it was full, and since then at least once before all that was seen had slid out.
    """
    if now.hidden_count and now.hidden_count >= before.total_count + before.quarantined_count:
        return True
    if before.window_size is not None:
        return before.missing_reason == "window"
    return before.server_count in (None, messages)


def _is_round(number: int) -> bool:
    """A multiple of ten with two significant digits at most."""
    return number >= _SMALLEST_WINDOW and number % 10 ** max(len(str(number)) - 2, 1) == 0
