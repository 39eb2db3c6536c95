"""One SMTP connection for any number of messages (RFC 5321, RFC 6409).

A message is sent in three steps: `offer` (MAIL, RCPT and DATA, in one write where the server offers PIPELINING),
`send_content`, and `end_data`, after which the server has taken the message or not. So the caller can note between
the steps that the end of the data is about to be sent, which must never happen twice. SIZE, 8BITMIME and SMTPUTF8 are
used where they are offered.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tasks.errors import MailServerBusyError, MailServerUnavailableError, MessageRefusedError
from tasks.mail.connection import Endpoint
from tasks.mail.login import Login
from tasks.mail.session import open_session
from tasks.mail.smtp.session import Reply, SmtpSession, line

# How many commands are written at once: their answers fit into
# any socket's buffer until they are read (RFC 2920 section 3.1).
_COMMANDS_PER_WRITE = 100

# How many times the usual timeout to wait for the answer to a whole message. That answer takes servers longest, and
# giving up leaves open whether the message was sent (RFC 5321 section 4.5.3.2.6).
ANSWER_PATIENCE = 3

_START_DATA = 354


class Offer(NamedTuple):
    """The server's answer for each recipient, and to DATA (None if DATA was not sent, or no recipient was taken)."""

    recipients: dict[str, Reply]
    data: Reply | None

    @property
    def is_open(self) -> bool:
        """Whether the server waits for the message."""
        return self.data is not None and self.data.code == _START_DATA

    @property
    def may_be_the_connection(self) -> bool:
        """Whether a refusal may be about this connection and not about the message: DATA was refused for good, or all
        recipients were, and not for their addresses (X.1.X and X.2.X of RFC 3463)."""
        if self.data is not None:
            return self.data.is_final
        replies = self.recipients.values()
        return all(reply.is_final for reply in replies) and not any(map(_is_about_an_address, replies))


class SmtpConnection:
    """An authenticated connection. Every method raises an EmailError that says what was done and what went wrong."""

    def __init__(self, endpoint: Endpoint, login: Login) -> None:
        self._endpoint = endpoint
        self.login = login
        self._messages = 0
        self._session = open_session(SmtpSession, endpoint, login)

    @property
    def mechanism(self) -> str:
        """The mechanism with which the connection logged in."""
        return self._session.mechanism

    @property
    def is_kept(self) -> bool:
        """Whether the connection was kept from an earlier message."""
        return self._messages > 1

    @property
    def is_usable(self) -> bool:
        """Whether another message can be sent on this connection."""
        return self._session.is_usable

    @property
    def is_stale(self) -> bool:
        """Whether the connection cannot be used any more: it broke, or the server closed it while it was idle."""
        return not self.is_usable or self.login.has_expired or self._session.has_input

    @property
    def extensions(self) -> dict[str, str]:
        """The extensions that the server offers, in lower case, with their parameters."""
        return self._session.esmtp_features

    def offer(self, sender: str, recipients: Sequence[str], size: int, *, utf8: bool = False) -> Offer:
        """Begin a message of `size` bytes. With `utf8` its addresses have characters beyond ASCII.

        Raises MessageRefusedError if the server will never take a message from this sender or of this size, and
        MailServerBusyError if it does not take the message now.
        """
        first = self._mail_command(sender, size, utf8=utf8)
        self._messages += 1
        commands = [first, *(f"RCPT TO:<{address}>" for address in recipients), "DATA"]
        with self._session.translating_errors("sending"), self._abandoned_on_failure():
            replies = self._pipeline(commands) if "pipelining" in self.extensions else self._one_by_one(commands)
            said = dict(zip(recipients, replies[1:], strict=False))
            data = replies[-1] if len(replies) == len(commands) else None
            if not any(reply.is_positive for reply in said.values()):
                self._withdraw(data)
                data = None
        if not replies[0].is_positive:
            # The refusal may be about this connection, on which the server takes no more messages.
            self.close()
            raise _refusal(replies[0], self._endpoint)
        if data is not None and data.code != _START_DATA:
            self._session.require(data, data.is_passing or data.is_final)
            self.reset()
        return Offer(said, data)

    def send_content(self, raw: bytes) -> None:
        """Send the message without the end of the data.

        Until the end is sent, the server must not keep the message (section 4.1.1.4).

        Lines of `raw` end in CRLF, the last one too.
        """
        with self._session.translating_errors("sending"), self._abandoned_on_failure():
            self._session.send(re.sub(rb"(?m)^\.", b"..", raw))

    def require_open(self) -> None:
        """Raises MailServerUnavailableError if the server has closed the
        connection already: then the message was certainly not sent."""
        if self.is_stale:
            self.abandon()
            raise MailServerUnavailableError(f"sending, {self._endpoint}: it closed the connection")

    def end_data(self) -> Reply:
        """Send the end of the data and return the server's answer.

        After an error nobody knows whether the message was taken.
        """
        with self._session.translating_errors("waiting for the answer to the message"), self._abandoned_on_failure():
            self._session.sock.settimeout(self._endpoint.timeout * ANSWER_PATIENCE)
            self._session.send(b".\r\n")
            reply = self._session.reply()
            self._session.require(reply, reply.is_positive or reply.is_passing or reply.is_final)
            self._session.sock.settimeout(self._endpoint.timeout)
            return reply

    def reset(self) -> None:
        """Have the server discard a message that was begun."""
        if self.is_usable:
            with self._session.translating_errors("sending"), self._abandoned_on_failure():
                self._one_by_one(["RSET"])

    def close(self) -> None:
        """Say goodbye if the server still listens; never raises."""
        if self.is_usable:
            self._session.say_goodbye()
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
        """Send commands in groups (RFC 2920).

        If MAIL is refused, the server refuses the others too, so sending them does no harm.
        """
        replies: list[Reply] = []
        for start in range(0, len(commands), _COMMANDS_PER_WRITE):
            written = commands[start : start + _COMMANDS_PER_WRITE]
            self._session.send(b"".join(line(command) for command in written))
            replies += [self._session.reply() for _ in written]
        return replies

    def _one_by_one(self, commands: Sequence[str]) -> list[Reply]:
        """Send the commands one by one.

        Stops if MAIL is refused, and leaves DATA out if every recipient is refused.
        """
        replies: list[Reply] = []
        for command in commands:
            if command == "DATA" and not any(reply.is_positive for reply in replies[1:]):
                break
            replies.append(self._session.command(command))
            if not replies[0].is_positive:
                break
        return replies

    def _withdraw(self, data: Reply | None) -> None:
        """Withdraw a message without recipients.

        A server that took DATA all the same gets an empty message for nobody.
        """
        if data is not None and data.code == _START_DATA:
            self._session.command(".")
        if self.is_usable:
            self._session.command("RSET")

    @contextmanager
    def _abandoned_on_failure(self) -> Iterator[None]:
        # After a broken step, the next answer could belong to the last command, so the connection is closed.
        try:
            yield
        except BaseException:
            self.abandon()
            raise


def _is_about_an_address(reply: Reply) -> bool:
    return re.match(r"5\.[12]\.\d", reply.text) is not None


def _refusal(reply: Reply, endpoint: Endpoint) -> Exception:
    return (MessageRefusedError if reply.is_final else MailServerBusyError)(f"{endpoint}: {reply}")
