"""The commands of a POP3 connection (RFC 1939): list, fetch and delete messages.

Many commands are sent without waiting for each answer where the server offers PIPELINING (RFC 2449 section 6.8).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from tasks.errors import ProtocolError
from tasks.mail.connection import Endpoint
from tasks.mail.login import Login
from tasks.mail.message import FetchedMessage
from tasks.mail.parse.arrival import arrived_at
from tasks.mail.pop3.session import Pop3Session
from tasks.mail.pop3.uidl import UidlEntry, read_unique_id
from tasks.mail.session import CommandRefusedError, open_session
from tasks.secrecy.secrets import said

# How many commands are sent at most before their answers are read.
_PIPELINED = 64
_MAX_SHOWN_LENGTH = 80


class Refused(NamedTuple):
    """A message that the server refused to give or delete, and the server's words."""

    number: int
    words: str


class Pop3Connection:
    """An authenticated connection. Every method raises an EmailError that says what was done and what went wrong.

    The numbers of messages hold only as long as the connection.
    """

    def __init__(self, endpoint: Endpoint, login: Login, max_message_bytes: int) -> None:
        self.login = login
        self._max_message_bytes = max_message_bytes
        self._session = open_session(Pop3Session, endpoint, login)
        self._has_deleted = False

    @property
    def mechanism(self) -> str:
        """The mechanism with which the connection logged in."""
        return self._session.mechanism

    @property
    def capabilities(self) -> frozenset[str]:
        """What the server offers beyond the commands that every
        server has (CAPA); empty where the server does not tell."""
        return frozenset(self._session.offered)

    def count(self) -> int:
        """How many messages there are."""
        with self._session.translating_errors("counting the messages"):
            return _number(self._session.ask("STAT").encode().split())

    def list_messages(self) -> tuple[list[UidlEntry], bool]:
        """All messages in the server's order, and whether the server gives unique-ids at all."""
        try:
            with self._session.translating_errors("listing the messages"):
                sizes = dict(map(_pair, self._session.listing("LIST")))
        except CommandRefusedError:
            if self.count():
                raise
            return [], True  # for an empty maildrop, which some servers refuse to list
        with self._session.translating_errors("listing the messages"):
            unique_ids = self._unique_ids()
            known = unique_ids or {}
            messages = [UidlEntry(number, size, known.get(number)) for number, size in sizes.items()]
            return messages, unique_ids is not None

    def headers(self, numbers: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
        """The header of each message, read with TOP, or None where the server refuses."""
        with self._session.translating_errors("reading headers"):
            for number, refusal in self._ask_for_each("TOP {} 0", numbers):
                yield number, self._content()[0] if refusal is None else None

    def stream_messages(self, numbers: Iterable[int]) -> Iterator[FetchedMessage | Refused]:
        """Whole messages in the order asked for, each as it arrives.

        Bytes of messages that are too large are not kept.
        """
        with self._session.translating_errors("fetching messages"):
            for number, refusal in self._ask_for_each("RETR {}", numbers):
                if refusal is not None:
                    yield Refused(number, refusal)
                    continue
                raw, size = self._content()
                received_at = arrived_at(raw, datetime.now(UTC)) if raw is not None else None
                yield FetchedMessage(number, (), received_at, size, raw)

    def delete(self, numbers: Iterable[int]) -> list[Refused]:
        """Mark messages that `close` will delete. Returns those that the server refuses to mark."""
        with self._session.translating_errors("deleting messages"):
            self._has_deleted = True
            answers = self._ask_for_each("DELE {}", numbers)
            return [Refused(number, words) for number, words in answers if words is not None]

    def close(self) -> None:
        """Send QUIT, with which the server deletes marked messages.

        Raises errors only if messages were to be deleted.
        """
        if not self._has_deleted:
            self._session.say_goodbye()
            return
        try:
            with self._session.translating_errors("deleting messages"):
                self._session.ask("QUIT")
        finally:
            self._session.abandon()

    def abandon(self) -> None:
        """Close without QUIT, so that nothing is deleted; for when the server may be in the middle of an answer.

        Never raises.
        """
        self._session.abandon()

    def _unique_ids(self) -> dict[int, str | None] | None:
        lines = self._session.listing_if_known("UIDL")
        if lines is None:
            return None
        # A line without a unique-id belongs to a message that has none.
        return {_number(words): read_unique_id(b" ".join(words[1:])) for words in lines}

    def _ask_for_each(self, command: str, numbers: Iterable[int]) -> Iterator[tuple[int, str | None]]:
        """Send the command for each number. Yields each number with the server's refusal, or None. The caller has to
        read the lines of an answer before it asks for the next."""
        window = _PIPELINED if "PIPELINING" in self._session.offered else 1
        remaining = iter(numbers)
        waiting: deque[int] = deque()
        while True:
            if len(waiting) <= window // 2 and (more := list(islice(remaining, window - len(waiting)))):
                self._session.send(*(command.format(number) for number in more))
                waiting.extend(more)
            if not waiting:
                return
            yield waiting.popleft(), self._session.refusal()

    def _content(self) -> tuple[bytes | None, int]:
        """The lines that follow the present answer (None where they are too large), and their size."""
        lines: list[bytes] = []
        size = 0
        for line in self._session.lines():
            size += len(line)
            if size <= self._max_message_bytes:
                lines.append(line)
            else:
                lines.clear()
        return b"".join(lines) if size <= self._max_message_bytes else None, size


def _pair(words: list[bytes]) -> tuple[int, int]:
    if len(words) < 2:
        raise ProtocolError(f"LIST answered {_shown(words)}")
    return _number(words), _number(words[1:])


def _number(words: list[bytes]) -> int:
    """The first of the words. Raises ProtocolError where it is no number that a message or size can have."""
    if not words or not words[0].isdigit() or len(words[0]) > 18:
        raise ProtocolError(f"where a number should be came {_shown(words)}")
    return int(words[0])


def _shown(words: list[bytes]) -> str:
    return said(repr(b" ".join(words)), _MAX_SHOWN_LENGTH)
