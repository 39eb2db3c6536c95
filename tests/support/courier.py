"""A Courier IMAP server of its own, without root: one password for every user, mail as Maildir.

It gives a folder another UIDVALIDITY when it is renamed, and takes no message while a folder is open read-only. It
knows neither CONDSTORE nor LIST-STATUS, and UIDPLUS without MOVE.

The server is Courier's `imapd`. Its own login asks a socket at a path that is compiled in, so the login is here:
afterwards `imapd` is started on the connection with the user's Maildir, as Courier's `imaplogin` starts it.
"""

import os
import shutil
import socketserver
import subprocess
import threading
from pathlib import Path
from typing import Self

from native.ports import LOOPBACK, free_port
from native.unprivileged import identity
from tests.support.debian import library_path, unpacked

_PROGRAMS = ("courier-imap", "courier-pop", "courier-base", "courier-authlib")
_LIBRARIES = ("libcourier-unicode4", "libgamin0", "libidn12", "libgdbm6", "libltdl7")  # those of Debian 12

_CAPABILITY = "IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT THREAD=REFERENCES SORT QUOTA IDLE"

# As in the package's /etc/courier/imapd, but without locks, which ask a file monitor.
_ENVIRONMENT = {
    "IMAP_CAPABILITY": _CAPABILITY, "IMAP_KEYWORDS": "1", "IMAP_ACL": "1", "IMAP_USELOCKS": "0",
    "IMAP_MAILBOX_SANITY_CHECK": "1", "IMAP_TRASHFOLDERNAME": "Trash", "IMAP_EMPTYTRASH": "", "IMAP_STARTTLS": "NO",
    "IMAP_MOVE_EXPUNGE_TO_TRASH": "0", "IMAP_CHECK_ALL_FOLDERS": "0", "IMAP_ENHANCEDIDLE": "0", "PROTOCOL": "IMAP",
    "TCPREMOTEIP": LOOPBACK, "TCPREMOTEPORT": "1",
}  # fmt: skip


class Courier:
    """Serves IMAP on `port` and POP3 on `pop3_port`; as a context manager for the length of the block."""

    host = LOOPBACK

    def __init__(self, root: Path, password: str) -> None:
        self.root, self.password = root, password
        self.port = free_port()
        self.pop3_port = free_port(taken={self.port})
        self._servers: list[_Connections] = []

    def start(self) -> None:
        """Raises StackError when Courier cannot be had."""
        programs = unpacked(_PROGRAMS, _LIBRARIES)
        for port, login in ((self.port, _Login), (self.pop3_port, _Pop3Login)):
            self._servers.append(_Connections(self, programs, port, login))

    def stop(self) -> None:
        """End the server and what it started."""
        for server in self._servers:
            server.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Connections(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, courier: Courier, programs: Path, port: int, login: type["_Login"]) -> None:
        self.courier, self.programs = courier, programs
        self._monitor = _FileMonitor(f"{port}")
        self.environment = {
            **_ENVIRONMENT,
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": library_path(programs),
            "GAM_CLIENT_ID": f"{port}",
        }
        self.running: set[subprocess.Popen[bytes]] = set()
        super().__init__((courier.host, port), login)
        _serve(self)

    def maildir(self, user: str) -> Path:
        """The user's mail, made at the first login."""
        home = self.courier.root / user
        if not home.exists():
            for folder in ("", ".Sent", ".Drafts", ".Trash"):
                for part in ("cur", "new", "tmp"):
                    (home / folder / part).mkdir(parents=True)
                if folder:
                    (home / folder / "maildirfolder").touch()
            identity().hand_over(home)
        return home

    def close(self) -> None:
        for server in (self, self._monitor):
            server.shutdown()
            server.server_close()
        for process in list(self.running):
            process.kill()
            process.wait()


class _FileMonitor(socketserver.UnixStreamServer):
    """Hangs up. With nobody there, each `imapd` would look for the file monitor (gamin) for more than a second."""

    def __init__(self, client: str) -> None:
        # A name in the abstract namespace, as long as gamin makes it.
        name = f"\0/tmp/fam-{identity().user}-{client}".ljust(108, "\0")
        super().__init__(name, socketserver.BaseRequestHandler)
        _serve(self)


def _serve(server: socketserver.BaseServer) -> None:
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class _Login(socketserver.BaseRequestHandler):
    """What comes before a login; one with the right password gets the user's `imapd`."""

    program = "usr/bin/imapd"
    server: _Connections

    def handle(self) -> None:
        self._say(f"* OK [CAPABILITY {_CAPABILITY}] Courier-IMAP ready.")
        while line := self._line():
            tag, _, command = line.decode().strip().partition(" ")
            verb, _, rest = command.partition(" ")
            match verb.upper():
                case "LOGIN":
                    user, password = _strings(rest)
                    if password == self.server.courier.password:
                        self._serve(tag, user)
                        return
                    self._say(f"{tag} NO Login failed.")
                case "CAPABILITY":
                    self._say(f"* CAPABILITY {_CAPABILITY}\r\n{tag} OK CAPABILITY completed")
                case "LOGOUT":
                    self._say(f"* BYE Courier-IMAP server shutting down\r\n{tag} OK LOGOUT completed")
                    return
                case _:
                    self._say(f"{tag} NO Error in IMAP command received by server.")

    def _serve(self, tag: str, user: str) -> None:
        maildir = self.server.maildir(user)
        environment = {**self.server.environment, "AUTHENTICATED": user, "IMAPLOGINTAG": tag, "HOME": str(maildir)}
        command = [*identity().prefix, str(self.server.programs / self.program), str(maildir)]
        descriptor = self.request.fileno()
        process = subprocess.Popen(
            command, env=environment, cwd=maildir, stdin=descriptor, stdout=descriptor, stderr=subprocess.DEVNULL
        )
        self.server.running.add(process)
        process.wait()
        self.server.running.discard(process)

    def _line(self) -> bytes:
        """Byte by byte: what follows the login is for `imapd`."""
        line = b""
        while not line.endswith(b"\n") and (byte := self.request.recv(1)):
            line += byte
        return line

    def _say(self, text: str) -> None:
        self.request.sendall(f"{text}\r\n".encode())


class _Pop3Login(_Login):
    program = "usr/lib/courier/courier/courierpop3d"

    def handle(self) -> None:
        self._say("+OK Hello there.")
        user = ""
        while line := self._line():
            command, _, word = line.decode().rstrip("\r\n").partition(" ")
            if command.upper() == "USER":
                user = word
                self._say("+OK Password required.")
            elif command.upper() == "PASS" and word == self.server.courier.password:
                self._serve("", user)
                return
            else:
                self._say("-ERR Invalid command.")


def _strings(text: str) -> list[str]:
    """Two strings, quoted or bare (RFC 9051 section 4.3)."""
    found: list[str] = []
    while text := text.lstrip():
        if not text.startswith('"'):
            word, _, text = text.partition(" ")
            found.append(word)
            continue
        end = next(at for at in range(1, len(text)) if text[at] == '"' and _is_plain(text, at))
        found.append(text[1:end].replace('\\"', '"').replace("\\\\", "\\"))
        text = text[end + 1 :]
    return found


def _is_plain(text: str, at: int) -> bool:
    """Whether the quote at that place has no backslash of its own before it."""
    return (at - len(text[:at].rstrip("\\"))) % 2 == 0
