"""The commands of an IMAP connection (RFC 3501, RFC 9051).

Works on servers that offer nothing beyond IMAP4rev1, and uses ID, ENABLE, CONDSTORE, QRESYNC, ESEARCH, LIST-EXTENDED,
SPECIAL-USE, LIST-STATUS and Gmail's X-GM-EXT-1 where they are offered. If a server offers an extension and refuses
it, the command is sent again without the extension (`tasks/mail/imap/base.py`). Only X-GM-EXT-1 has to work where it
is offered, because it decides how the mailbox is synced.
"""

from collections.abc import Generator, Iterator
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from tasks.errors import ProtocolError
from tasks.mail.imap.fetch import (
    Assembly,
    FetchedEnvelope,
    FetchedFlags,
    are_flags_of_known,
    read_envelopes,
    read_flag_answers,
    read_only_uids,
    read_sizes,
)
from tasks.mail.imap.folders import ListedFolder, wire_path
from tasks.mail.imap.responses import (
    AppendedUid,
    FolderStatus,
    Line,
    read_appended_uid,
    read_list,
    read_mailbox_id,
    read_number,
    read_status,
    read_uid_set,
)
from tasks.mail.imap.search import MAX_UID_SET_LENGTH, ImapSearch, imap_date
from tasks.mail.imap.session import NotUnderstoodError, first_words
from tasks.mail.imap.uidset import UidSet
from tasks.mail.message import FetchedMessage
from tasks.mail.refusal import means_busy
from tasks.mail.session import MAX_WORDS_LENGTH, CommandRefusedError
from tasks.secrecy.secrets import said

_MESSAGE_ITEMS = "(UID RFC822.SIZE FLAGS INTERNALDATE BODY.PEEK[])"
_GMAIL_MESSAGE_ITEMS = "(UID RFC822.SIZE FLAGS INTERNALDATE X-GM-LABELS X-GM-THRID BODY.PEEK[])"

# Codes of refusals that do not tell whether a folder exists (RFC 5530 section 3).
_ABOUT_THE_SERVER = (
    "[UNAVAILABLE]", "[INUSE]", "[LIMIT]", "[OVERQUOTA]", "[SERVERBUG]", "[CLIENTBUG]", "[CONTACTADMIN]", "[NOPERM]",
)  # fmt: skip

_STATUS_ITEMS = "MESSAGES UIDNEXT UIDVALIDITY UNSEEN"


class FolderGoneError(CommandRefusedError):
    """The folder does not exist, though it was listed: as a parent of others, or until a moment ago."""


class Changes(NamedTuple):
    """Changed flags and removed UIDs. They are complete only if `is_whole`, that is if every line could be read."""

    flags: list[FetchedFlags]
    vanished: UidSet
    is_whole: bool


class ImapConnection(ImapSearch):
    """The commands. Every method raises an EmailError that says what was done and what went wrong."""

    # Lines of the last LIST that could not be read: each may have been a folder.
    unread_names: tuple[bytes, ...] = ()

    def list_folders(self) -> tuple[list[ListedFolder], dict[str, FolderStatus]]:
        """All folders; and their states by path, if the server offers LIST-STATUS (RFC 5819)."""
        with self._imap.translating_errors("listing the folders"):
            folders, unread = self._without_refused(("LIST-STATUS", "LIST-EXTENDED"), self._list)
            self.unread_names = tuple(unread)
            return folders, dict(read_status(self._untagged("STATUS")))

    def select(self, path: str, *, writable: bool = False) -> FolderStatus:
        """Open a folder, read-only unless `writable` (EXAMINE or SELECT, RFC 9051 sections 6.3.2 and 6.3.3).

        Raises CommandRefusedError if the folder cannot be opened.
        """
        with self._imap.translating_errors(f"opening {path}"):
            try:
                name = wire_path(path)
            except ValueError as error:
                raise CommandRefusedError(str(error)) from None

            def ask(extension: str | None) -> list[Line]:
                lines: list[Line]
                outcome, lines = self._imap.select(name + (b" (CONDSTORE)" if extension else b""), not writable)
                if outcome != "OK":
                    words = first_words(lines)
                    raise (FolderGoneError if "[NONEXISTENT]" in words.upper() else CommandRefusedError)(
                        said(words, MAX_WORDS_LENGTH)
                    )
                return lines

            lines = self._without_refused(() if self.has_qresync else ("CONDSTORE",), ask)
            return self._opened(lines)

    def status(self, path: str) -> FolderStatus | None:
        """The state of a folder that is not open; None where the server does not say."""
        with self._imap.translating_errors(f"asking for the state of {path}"):
            outcome, lines = self._imap.status(wire_path(path), f"({_STATUS_ITEMS})")
            return next((status for _, status in read_status(lines)), None) if outcome == "OK" else None

    def is_gone(self, path: str) -> bool:
        """Ask the server for one folder by its name: whether it says that the folder does not exist.

        LIST may have left it out.
        """
        with self._imap.translating_errors(f"asking for the state of {path}"):
            try:
                outcome, lines = self._imap.status(wire_path(path), f"({_STATUS_ITEMS})")
            except ValueError:
                return True  # a folder with such a name was never opened either
            except NotUnderstoodError:
                return False
            words = first_words(lines)
            is_about_the_server = means_busy(words) or any(code in words.upper() for code in _ABOUT_THE_SERVER)
            return outcome == "NO" and not is_about_the_server

    def newest_uids(self, opened: FolderStatus, number: int) -> UidSet:
        """The UIDs of the last messages of the open folder."""
        if not opened.messages:
            return UidSet()
        with self._imap.translating_errors("asking for the newest messages"):
            outcome, lines = self._imap.fetch(f"{max(1, opened.messages - number + 1)}:*", "(UID)")
            self._require_ok(outcome, lines)
            return UidSet.of(read_only_uids(lines))

    def fetch_sizes(self, uids: UidSet) -> dict[int, int]:
        """RFC822.SIZE in bytes by UID, of the messages that are still there."""
        with self._imap.translating_errors("fetching sizes"):
            return read_sizes(self._fetch(uids, "(UID RFC822.SIZE)"))

    def fetch_flags(self, uids: UidSet) -> Iterator[FetchedFlags]:
        """The flags of those `uids` that are still there."""
        with self._imap.translating_errors("fetching flags"):
            yield from self._fetch_each(uids, self._flag_items, read_flag_answers)

    def fetch_changes(self, uids: UidSet, since: int) -> Changes:
        """Flags that changed since mod-sequence `since`; with QRESYNC
        also the UIDs removed since then (RFC 7162 section 3)."""
        with self._imap.translating_errors("fetching changes"):
            self._untagged("VANISHED")
            unread = self._imap.unread_lines
            modifiers = {"QRESYNC": f"(CHANGEDSINCE {since} VANISHED)", "CONDSTORE": f"(CHANGEDSINCE {since})"}

            def ask(extension: str | None) -> list[Line]:
                return self._fetch(uids, self._flag_items, modifiers.get(extension or ""))

            lines = self._without_refused(modifiers, ask)
            is_whole = self._imap.unread_lines == unread and are_flags_of_known(lines)
            return Changes(list(read_flag_answers(lines)), _vanished(self._untagged("VANISHED")), is_whole)

    def fetch_envelopes(self, uids: UidSet) -> Iterator[FetchedEnvelope]:
        """The envelope of each message: what identifies it, without its body."""
        labels = " X-GM-LABELS" if self.has_gmail_labels else ""
        items = f"(UID FLAGS{labels} INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])"
        with self._imap.translating_errors("fetching envelopes"):
            yield from self._fetch_each(uids, items, read_envelopes)

    def stream_messages(self, uids: UidSet) -> Iterator[FetchedMessage]:
        """Whole messages one by one as they arrive, in the server's order. Messages that are gone are left out.

        Raises CommandRefusedError after the last message if the server answers NO or BAD.
        """
        items = _GMAIL_MESSAGE_ITEMS if self.has_gmail_labels else _MESSAGE_ITEMS
        with self._imap.translating_errors("fetching messages"):
            for part in uids.to_imap_parts(MAX_UID_SET_LENGTH):
                rest = part
                while rest:
                    rest = yield from self._stream_part(rest, items)

    def append(self, path: str, flags: str, received_at: datetime, raw: bytes) -> AppendedUid | None:
        """Put a message into a folder.

        Returns the message's UID, if the server tells it (UIDPLUS, RFC 4315 section 3).
        """
        with self._imap.translating_errors(f"filing a message in {path}"):
            when = f'"{imap_date(received_at)} {received_at:%H:%M:%S %z}"'
            message = (wire_path(path), f"({flags})", when, raw)
            outcome, lines = self._imap.append(*message)
            if outcome == "NO" and self._leave():
                # Courier refuses to append to a folder that is open read-only.
                outcome, lines = self._imap.append(*message)
            self._require_ok(outcome, lines)
            return read_appended_uid(lines)

    def _leave(self) -> bool:
        """Close the open folder, if that is possible without an EXPUNGE. Returns whether a folder was closed."""
        if self._imap.state != "SELECTED":
            return False
        if "UNSELECT" in self.capabilities:
            left = self._imap.unselect()[0] == "OK"
        else:
            # CLOSE removes nothing if the folder is open read-only (RFC 9051 section 6.4.1); otherwise it would.
            left = self._imap.is_readonly and self._imap.close()[0] == "OK"
        return bool(left)

    def create_folder(self, path: str) -> None:
        """Make a folder and subscribe to it. Raises CommandRefusedError where it cannot be made."""
        with self._imap.translating_errors(f"making the folder {path}"):
            self._require_ok(*self._imap.create(wire_path(path)))
            with suppress(CommandRefusedError):
                self._imap.subscribe(wire_path(path))

    def ask(self, doing: str, *words: str | bytes) -> None:
        """Send a command that changes something and has no other answer than OK. Raises CommandRefusedError."""
        with self._imap.translating_errors(doing):
            self._untagged("COPYUID")
            self._require_ok(*self._imap.xatom(*words))
            # Drop what the server sent unasked, so that it is not taken for a later answer.
            self._untagged("FETCH")
            self._untagged("VANISHED")

    def copied_uids(self) -> list[bytes]:
        """The last command's answer about the new UIDs of messages (COPYUID, RFC 4315 section 3)."""
        return [line for line in self._untagged("COPYUID") if isinstance(line, bytes)]

    def _stream_part(self, uids: str, items: str) -> Generator[FetchedMessage, None, str]:
        """The messages that the server gives of `uids`. Returns the UIDs that it left out."""
        assembly = Assembly()
        self._limit()
        gone = self._imap.untagged_responses
        gone.pop("EXPUNGE", None)
        for lines in self._imap.stream_uid_fetch(uids, items):
            if "EXPUNGE" in gone or "VANISHED" in gone:
                assembly.forget_numbers()
            yield from assembly.take(lines)
        rest = self._left_out(uids)
        if held := {message.uid: message for message in assembly.held()}:
            flags: dict[int, tuple[str, ...]] = {}
            with suppress(CommandRefusedError):
                flags = dict(read_flag_answers(self._fetch(UidSet.of(held), self._flag_items)))
            for uid, message in held.items():
                yield message._replace(flags=flags.get(uid, ()))
        return rest

    def _opened(self, lines: list[Line]) -> FolderStatus:
        try:
            messages = _number(lines)
            if messages is None:
                raise CommandRefusedError("the server does not say how many messages there are")
            return FolderStatus(
                messages=messages,
                uidvalidity=_number(self._untagged("UIDVALIDITY")) or 0,
                uidnext=_number(self._untagged("UIDNEXT")),
                highestmodseq=_number(self._untagged("HIGHESTMODSEQ")) if self.has_condstore else None,
                # Read from SELECT only: Cyrus 3.6 answers STATUS (MAILBOXID) with wrong bytes.
                mailbox_id=read_mailbox_id(self._untagged("MAILBOXID")) if self.has_mailbox_ids else None,
            )
        except ProtocolError as error:
            raise CommandRefusedError(error.detail) from error

    def _list(self, extension: str | None) -> tuple[list[ListedFolder], list[bytes]]:
        special_use = "SPECIAL-USE " if "SPECIAL-USE" in self.capabilities else ""
        if extension == "LIST-STATUS":
            items = _STATUS_ITEMS + (" HIGHESTMODSEQ" if self.has_condstore else "")
            pattern = f'"*" RETURN ({special_use}STATUS ({items}))'
        elif extension and special_use:
            pattern = '"*" RETURN (SPECIAL-USE)'
        else:
            pattern = '"*"'
        outcome, lines = self._imap.list('""', pattern)
        self._require_ok(outcome, lines)
        folders, unread = read_list(lines)
        if extension and not folders:
            raise CommandRefusedError("LIST named no folder")
        return folders, unread

    @property
    def _flag_items(self) -> str:
        return "(UID FLAGS X-GM-LABELS)" if self.has_gmail_labels else "(UID FLAGS)"


def _vanished(lines: list[Line]) -> UidSet:
    """The UIDs in lines such as `(EARLIER) 1:5,7` or `1:5` (RFC 7162 section 3.2.10).

    Lines without UIDs are skipped.
    """
    found = []
    for line in lines:
        if isinstance(line, bytes) and line.split():
            with suppress(ProtocolError):
                found.append(read_uid_set(line.split()[-1]))
    return UidSet.union(found)


def _number(lines: list[Line]) -> int | None:
    """The last line, if it is a number."""
    for line in reversed(lines):
        if isinstance(line, bytes) and line.strip().isdigit():
            return read_number(line.strip())
    return None
