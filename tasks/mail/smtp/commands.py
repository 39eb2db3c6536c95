"""One SMTP connection for any number of messages (RFC 5321, RFC 6409).

A message goes in three steps, so that whoever sends it can note in between what must never be done twice: `offer`
(MAIL, RCPT and DATA, in one write where the server offers PIPELINING), `send_content`, and `end_data`, after which
the server has taken the message or not. SIZE, 8BITMIME and SMTPUTF8 are used where they are offered.
"""

import re
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tasks.errors import MailServerBusyError, MailServerUnavailableError, MessageRefusedError
from tasks.mail.connection import Endpoint
from tasks.mail.login import Login
from tasks.mail.smtp.session import Reply, line, open_session, translated

# So many commands at once: their answers fit into any socket's buffer while nobody reads (RFC 2920 section 3.1).
_COMMANDS_PER_WRITE = 100

# The answer to a whole message takes servers longest, and giving up on it leaves open whether it was sent
# (RFC 5321 section 4.5.3.2.6): so many times the timeout of any other answer.
ANSWER_PATIENCE = 3

_GOODBYE_SECONDS = 1
_START_DATA = 354


class Offer(NamedTuple):
    """What the server said to each recipient, and to DATA if it was asked that with a recipient to send to."""

    recipients: dict[str, Reply]
    data: Reply | None

    @property
    def is_open(self) -> bool:
        """Whether the server waits for the message."""
        return self.data is not None and self.data.code == _START_DATA

    @property
    def may_be_the_connection(self) -> bool:
        """Whether what was refused may be this connection, whose server forgot it, and not the message: nobody was
        taken, or DATA was not, and not for what the addresses are (X.1.X and X.2.X of RFC 3463)."""
        if self.data is not None:
            return self.data.is_final
        replies = self.recipients.values()
        return all(reply.is_final for reply in replies) and not any(map(_is_about_an_address, replies))


class SmtpConnection:
    """An authenticated connection. Every method raises an EmailError that says what happened to what."""

    def __init__(self, endpoint: Endpoint, login: Login) -> None:
        self._endpoint = endpoint
        self.login = login
        self._messages = 0
        self._session = open_session(endpoint, login)

    @property
    def mechanism(self) -> str:
        """By which mechanism it logged in."""
        return self._session.mechanism

    @property
    def is_kept(self) -> bool:
        """Whether the message at hand is not the first on this connection."""
        return self._messages > 1

    @property
    def is_usable(self) -> bool:
        """Whether another message may go this way."""
        return self._session.is_usable

    @property
    def is_stale(self) -> bool:
        """Whether it is of no use any more: broken off, or the server said goodbye while nothing was sent."""
        if not self.is_usable or self.login.has_expired:
            return True
        poll = select.poll()
        poll.register(self._session.sock, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def extensions(self) -> dict[str, str]:
        """What the server offers, in lower case, with parameters."""
        return self._session.esmtp_features

    def offer(self, sender: str, recipients: Sequence[str], size: int, *, utf8: bool = False) -> Offer:
        """Begin a message of `size` bytes; with `utf8` its addresses go beyond ASCII.

        Raises MessageRefusedError where the server never takes it from this sender or at this size, and
        MailServerBusyError where it does not now.
        """
        first = self._mail_command(sender, size, utf8=utf8)
        self._messages += 1
        commands = [first, *(f"RCPT TO:<{address}>" for address in recipients), "DATA"]
        with translated(self._endpoint, "sending"), self._abandoned_on_failure():
            replies = self._pipeline(commands) if "pipelining" in self.extensions else self._one_by_one(commands)
            said = dict(zip(recipients, replies[1:], strict=False))
            data = replies[-1] if len(replies) == len(commands) else None
            if not any(reply.is_positive for reply in said.values()):
                self._withdraw(data)
                data = None
        if not replies[0].is_positive:
            # It may mean this connection: so many messages, and no more.
            self.close()
            raise _refusal(replies[0], self._endpoint)
        if data is not None and data.code != _START_DATA:
            self._session.require(data, data.is_passing or data.is_final)
            self.reset()
        return Offer(said, data)

    def send_content(self, raw: bytes) -> None:
        """The message but for the end that makes it one; until then the server must forget it (section 4.1.1.4).

        Lines of `raw` end in CRLF, the last one too.
        """
        with translated(self._endpoint, "sending"), self._abandoned_on_failure():
            self._session.send(re.sub(rb"(?m)^\.", b"..", raw))

    def require_open(self) -> None:
        """Raises MailServerUnavailableError where the server is gone already, so that its absence leaves no doubt."""
        if self.is_stale:
            self.abandon()
            raise MailServerUnavailableError(f"sending, {self._endpoint}: it closed the connection")

    def end_data(self) -> Reply:
        """Complete the message, and the server's answer. An error leaves open whether the message was taken."""
        with translated(self._endpoint, "waiting for the answer to the message"), self._abandoned_on_failure():
            self._session.sock.settimeout(self._endpoint.timeout * ANSWER_PATIENCE)
            self._session.send(b".\r\n")
            reply = self._session.reply()
            self._session.require(reply, reply.is_positive or reply.is_passing or reply.is_final)
            self._session.sock.settimeout(self._endpoint.timeout)
            return reply

    def reset(self) -> None:
        """Forget a message that was begun."""
        if self.is_usable:
            with translated(self._endpoint, "sending"), self._abandoned_on_failure():
                self._one_by_one(["RSET"])

    def close(self) -> None:
        """Say goodbye if the server still listens; never raises."""
        if self.is_usable:
            with suppress(OSError, ValueError):
                self._session.sock.settimeout(_GOODBYE_SECONDS)
                self._session.docmd("QUIT")
        self.abandon()

    def abandon(self) -> None:
        """Close without a goodbye, for when the server may be in the middle of a message; never raises."""
        self._session.abandon()

    def _mail_command(self, sender: str, size: int, *, utf8: bool) -> str:
        limit = self.extensions.get("size", "")
        if limit.isdigit() and 0 < int(limit) < size:
            raise MessageRefusedError(f"it has {size:,} bytes, and {self._endpoint} takes {int(limit):,} at most")
        if utf8 and "smtputf8" not in self.extensions:
            raise MessageRefusedError(f"{self._endpoint} takes no addresses beyond ASCII (SMTPUTF8)")
        parameters = [f" SIZE={size}"] if "size" in self.extensions else []
        if utf8:
            parameters += [" BODY=8BITMIME"] * ("8bitmime" in self.extensions) + [" SMTPUTF8"]
        return f"MAIL FROM:<{sender}>{''.join(parameters)}"

    def _pipeline(self, commands: Sequence[str]) -> list[Reply]:
        """RFC 2920. Where MAIL is refused all else is too, so it does not matter how much went out with it."""
        replies: list[Reply] = []
        for start in range(0, len(commands), _COMMANDS_PER_WRITE):
            written = commands[start : start + _COMMANDS_PER_WRITE]
            self._session.send(b"".join(line(command) for command in written))
            replies += [self._session.reply() for _ in written]
        return replies

    def _one_by_one(self, commands: Sequence[str]) -> list[Reply]:
        """Ends where MAIL is refused, and leaves out DATA where every recipient is."""
        replies: list[Reply] = []
        for command in commands:
            if command == "DATA" and not any(reply.is_positive for reply in replies[1:]):
                break
            replies.append(self._session.command(command))
            if not replies[0].is_positive:
                break
        return replies

    def _withdraw(self, data: Reply | None) -> None:
        """Nobody to send to: a server that waits for the message all the same gets an empty one for nobody."""
        if data is not None and data.code == _START_DATA:
            self._session.command(".")
        if self.is_usable:
            self._session.command("RSET")

    @contextmanager
    def _abandoned_on_failure(self) -> Iterator[None]:
        # Where a step broke off, the next answer could be the last one's.
        try:
            yield
        except BaseException:
            self.abandon()
            raise


def _is_about_an_address(reply: Reply) -> bool:
    return re.match(r"5\.[12]\.\d", reply.text) is not None


def _refusal(reply: Reply, endpoint: Endpoint) -> Exception:
    return (MessageRefusedError if reply.is_final else MailServerBusyError)(f"{endpoint}: {reply}")
