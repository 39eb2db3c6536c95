"""An IMAP connection after the login: the extensions that the server offers, without those that it refuses."""

import socket
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tasks.errors import MailServerUnavailableError, ProtocolError
from tasks.mail.connection import Endpoint
from tasks.mail.imap.extensions import Refusals
from tasks.mail.imap.responses import Line
from tasks.mail.imap.session import ImapSession, NotUnderstoodError, first_words
from tasks.mail.login import Login
from tasks.mail.session import MAX_WORDS_LENGTH, CommandRefusedError, open_session
from tasks.secrecy.secrets import said

T = TypeVar("T")


class ImapBase:
    """An authenticated connection. Every method raises an EmailError that says what was done and what went wrong.

    `capabilities` are those that the server offers and does not refuse.
    """

    def __init__(self, endpoint: Endpoint, login: Login, max_literal: int, refusals: Refusals | None = None) -> None:
        """Log in. Literals longer than `max_literal` bytes are not kept.

        `refusals` are extensions known to be refused.
        """
        self.login = login
        self.refusals = refusals or Refusals()
        while True:
            known = self.refusals.names
            self._imap: Any = open_session(ImapSession, endpoint, login, max_literal=max_literal)
            try:
                with self._imap.translating_errors("asking for its capabilities"):
                    self._introduce()
                return
            except (MailServerUnavailableError, ProtocolError):
                self.abandon()
                if self.refusals.names == known:
                    raise
                # The connection broke over an optional command, which is left out on the second connection.
            except BaseException:
                self.close()
                raise

    @property
    def mechanism(self) -> str:
        """The mechanism with which the connection logged in."""
        return str(self._imap.mechanism)

    @property
    def is_stale(self) -> bool:
        """Whether the server hung up or sent something without being asked, or the token may have expired."""
        return self.login.has_expired or bool(self._imap.has_input)

    @property
    def has_condstore(self) -> bool:
        """Whether flag changes can be asked for since a point in time (RFC 7162); QRESYNC implies it."""
        return "CONDSTORE" in self.capabilities or self.has_qresync

    @property
    def has_gmail_labels(self) -> bool:
        """Whether messages have Gmail's labels and thread ids (X-GM-EXT-1)."""
        return "X-GM-EXT-1" in self.capabilities

    @property
    def has_mailbox_ids(self) -> bool:
        """Whether a folder has an identifier that it keeps under any name (OBJECTID, RFC 8474)."""
        return "OBJECTID" in self.capabilities

    @property
    def has_qresync(self) -> bool:
        """Whether removals can be asked for since a point in time (RFC 7162)."""
        return "QRESYNC" in self.capabilities

    def refuse(self, extension: str) -> None:
        """Note that the server refuses an extension that it offers, and do not use the extension any more."""
        self.refusals.refuse(extension)
        self.capabilities -= {extension}

    def close(self) -> None:
        """Say goodbye if the server still listens; never raises."""
        self._imap.say_goodbye()

    def hand_over(self) -> tuple[socket.socket, bytes]:
        """The socket, for whoever goes on with it without blocking, and what was read from it already.

        This object cannot be used any more.
        """
        connected: tuple[socket.socket, bytes] = self._imap.hand_over()
        return connected

    def abandon(self) -> None:
        """Close without a goodbye, for when the server may be in the middle of an answer; never raises."""
        self._imap.abandon()

    def _introduce(self) -> None:
        self.capabilities = self._read_capabilities() - self.refusals.names
        if "ID" in self.capabilities:
            self._ask_anyway("ID", "ID", '("name" "metabuilder-email-workers")')
            self._untagged("ID")
        if "ENABLE" not in self.capabilities:
            # QRESYNC was not enabled, so it cannot be used (RFC 7162 section 3.2.3).
            self.capabilities -= {"QRESYNC"}
        elif self.has_qresync:
            self._ask_anyway("QRESYNC", "ENABLE", "QRESYNC")

    def _read_capabilities(self) -> frozenset[str]:
        """The capabilities after the login; if the server does not give them, those from before the login."""
        try:
            outcome, lines = self._imap.capability()
            self._require_ok(outcome, lines)
        except CommandRefusedError:
            lines = []
        words = b" ".join(line for line in lines if isinstance(line, bytes)).decode("latin-1").upper().split()
        return frozenset(words or self._imap.capabilities)

    def _ask_anyway(self, extension: str, *command: str) -> None:
        """Send an optional command, whose refusal does not matter."""
        try:
            self._require_ok(*self._imap.xatom(*command))
        except CommandRefusedError as refusal:
            self._leave_out(extension, refusal)
        except Exception:
            self.refusals.broke(extension)
            raise
        else:
            self.refusals.works(extension)

    def _without_refused(self, extensions: Iterable[str], ask: Callable[[str | None], T]) -> T:
        """Call `ask` with the first of the extensions that the server does not refuse, else with None.

        An extension counts as refused if the server takes the same
        command without it; otherwise the command was at fault.
        """
        refused: list[tuple[str, CommandRefusedError]] = []
        for extension in [name for name in extensions if name in self.capabilities]:
            try:
                answer = ask(extension)
            except CommandRefusedError as refusal:
                refused.append((extension, refusal))
            except Exception:
                self.refusals.broke(extension)
                raise
            else:
                self.refusals.works(extension)
                break
        else:
            answer = ask(None)
        for name, reason in refused:
            self._leave_out(name, reason)
        return answer

    def _leave_out(self, extension: str, refusal: CommandRefusedError) -> None:
        # A NO may come from a server in trouble, or be about the
        # folder, so it is not sure that the extension is refused.
        self.refusals.refuse(extension, is_sure=isinstance(refusal, NotUnderstoodError))
        self.capabilities -= {extension}

    def _untagged(self, name: str) -> list[Line]:
        return [line for line in self._imap.response(name)[1] if line is not None]

    def _require_ok(self, outcome: str, lines: list[Line]) -> None:
        if outcome != "OK":
            raise CommandRefusedError(said(first_words(lines), MAX_WORDS_LENGTH))
