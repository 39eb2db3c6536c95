"""An IMAP connection after the login: what the server offers, and what it bears of that."""

import select
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from tasks.errors import MailServerUnavailableError, ProtocolError
from tasks.mail.connection import Endpoint
from tasks.mail.imap.extensions import Refusals
from tasks.mail.imap.responses import Line
from tasks.mail.imap.session import (
    MAX_WORDS_LENGTH,
    FetchRefusedError,
    NotUnderstoodError,
    first_words,
    open_session,
    translated,
)
from tasks.mail.login import Login
from tasks.secrecy.secrets import said

T = TypeVar("T")


class ImapBase:
    """An authenticated connection. Every method raises an EmailError that says what happened to what.

    `capabilities` are those that the server offers and bears.
    """

    def __init__(self, endpoint: Endpoint, login: Login, max_literal: int, refusals: Refusals | None = None) -> None:
        """Of a literal longer than `max_literal` bytes nothing is kept. `refusals`: what the server is known for."""
        self._endpoint = endpoint
        self.login = login
        self.refusals = refusals or Refusals()
        while True:
            known = self.refusals.names
            self._imap: Any = open_session(endpoint, login, max_literal)
            try:
                with self._imap_errors("asking for its capabilities"):
                    self._introduce()
                return
            except (MailServerUnavailableError, ProtocolError):
                self.abandon()
                if self.refusals.names == known:
                    raise
                # It broke over a question that nobody depends on, which is not put again.
            except BaseException:
                self.close()
                raise

    @property
    def mechanism(self) -> str:
        """By which mechanism it logged in."""
        return str(self._imap.mechanism)

    @property
    def is_stale(self) -> bool:
        """Whether the server hung up or spoke while nothing was asked, or may not know our token any more."""
        if self.login.has_expired:
            return True
        poll = select.poll()
        poll.register(self._imap.sock, select.POLLIN)
        return bool(poll.poll(0))

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
        """The server refuses what it offers: it is not asked for any more."""
        self.refusals.refuse(extension)
        self.capabilities -= {extension}

    def close(self) -> None:
        """Say goodbye if the server still listens; never raises."""
        self._imap.say_goodbye()

    def abandon(self) -> None:
        """Close without a goodbye, for when the server may be in the middle of an answer; never raises."""
        self._imap.abandon()

    def _introduce(self) -> None:
        self.capabilities = self._read_capabilities() - self.refusals.names
        if "ID" in self.capabilities:
            self._ask_anyway("ID", "ID", '("name" "metabuilder-email-workers")')
            self._untagged("ID")
        if "ENABLE" not in self.capabilities:
            # QRESYNC cannot be used before it is enabled (RFC 7162 section 3.2.3).
            self.capabilities -= {"QRESYNC"}
        elif self.has_qresync:
            self._ask_anyway("QRESYNC", "ENABLE", "QRESYNC")

    def _read_capabilities(self) -> frozenset[str]:
        """Of a server that does not say, what it said before the login."""
        try:
            outcome, lines = self._imap.capability()
            self._require_ok(outcome, lines)
        except FetchRefusedError:
            lines = []
        words = b" ".join(line for line in lines if isinstance(line, bytes)).decode("latin-1").upper().split()
        return frozenset(words or self._imap.capabilities)

    def _ask_anyway(self, extension: str, *command: str) -> None:
        """A command that nobody depends on."""
        try:
            self._require_ok(*self._imap.xatom(*command))
        except FetchRefusedError as refusal:
            self._leave_out(extension, refusal)
        except Exception:
            self.refusals.broke(extension)
            raise
        else:
            self.refusals.works(extension)

    def _without_refused(self, extensions: Iterable[str], ask: Callable[[str | None], T]) -> T:
        """What `ask` gives with the first of the extensions that the server bears, else with None.

        One is refused when the server takes the question without it: else the question was at fault.
        """
        refused: list[tuple[str, FetchRefusedError]] = []
        for extension in [name for name in extensions if name in self.capabilities]:
            try:
                answer = ask(extension)
            except FetchRefusedError as refusal:
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

    def _leave_out(self, extension: str, refusal: FetchRefusedError) -> None:
        # NO may be the answer of a server in trouble, or about the folder.
        self.refusals.refuse(extension, is_sure=isinstance(refusal, NotUnderstoodError))
        self.capabilities -= {extension}

    def _untagged(self, name: str) -> list[Line]:
        return [line for line in self._imap.response(name)[1] if line is not None]

    def _require_ok(self, outcome: str, lines: list[Line]) -> None:
        if outcome != "OK":
            raise FetchRefusedError(said(first_words(lines), MAX_WORDS_LENGTH))

    def _imap_errors(self, doing: str) -> AbstractContextManager[None]:
        return translated(self._endpoint, doing)
