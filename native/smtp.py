"""The SMTP server of the demo: takes mail for the demo mailbox
after a login with its password, and delivers the mail.

Run as `python -m native.smtp STATE PORT`. A message is delivered into the Maildir of INBOX before it is accepted; the
mailbox's IMAP server shows it from then on.
"""

import asyncio
import hmac
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from native import demo
from native.environment import make_secrets
from native.ports import LOOPBACK
from native.state import State

_LARGEST = 32 * 1024 * 1024


class Deliverer:
    """aiosmtpd's handler, which delivers all mail into the INBOX of one mailbox."""

    def __init__(self, inbox: Path) -> None:
        self._inbox = inbox
        self._count = 0

    async def handle_RCPT(  # noqa: N802 - the names are aiosmtpd's
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Only the demo's own address has a mailbox here, and mail for others is not passed on."""
        if address.lower() != demo.ADDRESS:
            return f"550 5.1.1 No such mailbox here: the demo only delivers to {demo.ADDRESS}"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        """Store a message on disk, then accept it."""
        content = envelope.content
        assert isinstance(content, bytes)
        head = f"Return-Path: <{envelope.mail_from}>\r\nDelivered-To: {demo.ADDRESS}\r\n".encode()
        await asyncio.to_thread(self._deliver, head + content)
        return "250 2.0.0 Delivered"

    def _deliver(self, raw: bytes) -> None:
        self._count += 1
        name = f"{time.time():.6f}.P{os.getpid()}Q{self._count}.{socket.gethostname().replace('/', '_')}"
        unfinished = self._inbox / "tmp" / name
        with unfinished.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        # The message gets the owner of the mailbox, who may be another user than root.
        owner = self._inbox.stat()
        os.chown(unfinished, owner.st_uid, owner.st_gid)
        unfinished.rename(self._inbox / "new" / name)


def authenticator(password: str) -> Callable[[SMTP, Session, Envelope, str, object], AuthResult]:
    """The function with which aiosmtpd checks a login."""

    def check(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, login: object) -> AuthResult:
        known = isinstance(login, LoginPassword) and login.login == demo.USER.encode()
        right = isinstance(login, LoginPassword) and hmac.compare_digest(login.password, password.encode())
        return AuthResult(success=known and right, handled=False)

    return check


async def serve(inbox: Path, password: str, port: int) -> None:
    """Serve until cancelled. It listens on loopback only, where a password needs no TLS."""

    deliverer = Deliverer(inbox)

    def session() -> SMTP:
        return SMTP(
            deliverer,
            hostname=LOOPBACK,
            data_size_limit=_LARGEST,
            enable_SMTPUTF8=True,
            authenticator=authenticator(password),
            auth_required=True,
            auth_require_tls=False,
        )

    server = await asyncio.get_running_loop().create_server(session, LOOPBACK, port)
    async with server:
        await server.serve_forever()


def main() -> None:
    state, port = State(Path(sys.argv[1])), int(sys.argv[2])
    asyncio.run(serve(demo.mail_root(state) / demo.USER, make_secrets(state)["DEMO_PASSWORD"], port))


if __name__ == "__main__":
    main()
