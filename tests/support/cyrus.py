"""A Cyrus IMAP server of its own, without root: one password for every user.

It makes UIDVALIDITY of the second in which a folder is made, and keeps it when a folder is renamed; a folder has a
MAILBOXID (RFC 8474), which can be hidden.
"""

import contextlib
import imaplib
import shutil
import socketserver
import tempfile
import threading
from pathlib import Path

from native.ports import LOOPBACK, answers, free_port
from native.process import Server
from native.unprivileged import identity
from tests.support.debian import library_path, unpacked

_PROGRAMS = ("cyrus-imapd", "cyrus-common")
# Those of Debian 12.
_LIBRARIES = (
    *("libxapian30", "libpcre3", "libical3", "libicu72", "libjansson4", "libldap-2.5-0", "libpq5", "libsasl2-2"),
    *("libsqlite3-0", "libwrap0", "libxml2", "libnsl2", "libkrb5-3", "libk5crypto3", "libkrb5support0"),
    *("libgssapi-krb5-2", "libcom-err2", "libtirpc3", "libkeyutils1", "libssl3"),
)

_CONFIG = """\
configdirectory: {root}/conf
defaultpartition: default
partition-default: {root}/mail
cyrus_user: {user}
cyrus_group: {group}
servername: localhost
admins: admin
allowplaintext: yes
sasl_mech_list: PLAIN LOGIN
sasl_pwcheck_method: saslauthd
sasl_saslauthd_path: {sockets}/mux
virtdomains: off
altnamespace: yes
unixhierarchysep: yes
autocreate_quota: 0
autocreate_post: yes
autocreate_inbox_folders: Sent | Drafts | Trash | Junk
xlist-sent: Sent
xlist-drafts: Drafts
xlist-trash: Trash
xlist-junk: Junk
duplicatesuppression: no
"""

_SERVICES = """\
START {{
  recover cmd="{programs}/ctl_cyrusdb -C {root}/imapd.conf -r"
}}
SERVICES {{
  imap cmd="{programs}/imapd -C {root}/imapd.conf" listen="{host}:{port}" prefork=1
}}
EVENTS {{
}}
"""


class Cyrus(Server):
    """Serves IMAP on `port`. The capabilities in `hidden` are not offered."""

    name = "cyrus"
    host = LOOPBACK
    stop_seconds = 5.0
    children_seconds = 0.5

    def __init__(self, root: Path, password: str, *, hidden: str = "") -> None:
        super().__init__(root)
        self.port = free_port()
        self._password, self._hidden = password, hidden
        self._programs: Path | None = None
        # The path of a socket must fit into 107 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="cyrus"))
        self._login: _Passwords | None = None

    def start(self) -> None:
        """Start it and wait until it greets. Raises StackError when Cyrus cannot be had."""
        try:
            self._programs = unpacked(_PROGRAMS, _LIBRARIES)
            self._init(self._programs / "usr/lib/cyrus/bin")
            self._login = _Passwords(self._sockets / "mux", self._password)
            super().start()
        except BaseException:
            self.stop()
            raise

    def command(self) -> list[str]:
        assert self._programs is not None
        master = self._programs / "usr/lib/cyrus/bin/master"
        options = (
            "-C",
            self.root / "imapd.conf",
            "-M",
            self.root / "cyrus.conf",
            "-p",
            self.root / "master.pid",
            "-D",
        )
        return [*identity().prefix, str(master), *map(str, options)]

    def environment(self) -> dict[str, str]:
        assert self._programs is not None
        return {**super().environment(), "LD_LIBRARY_PATH": library_path(self._programs)}

    def is_ready(self) -> bool:
        return answers(self.port) and self._greets()

    def stop(self) -> None:
        """Stop it and remove its sockets."""
        super().stop()
        if self._login:
            self._login.close()
            self._login = None
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _greets(self) -> bool:
        with contextlib.suppress(OSError, imaplib.IMAP4.error):
            imaplib.IMAP4(self.host, self.port, timeout=2).logout()
            return True
        return False

    def _init(self, programs: Path) -> None:
        who = identity()
        for folder in ("conf/db", "conf/socket", "conf/proc", "conf/lock", "mail"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        values = {"root": self.root, "sockets": self._sockets, "programs": programs, "host": self.host}
        values |= {"user": who.user, "group": who.group, "port": self.port}
        hidden = f"suppress_capabilities: {self._hidden}\n" if self._hidden else ""
        (self.root / "imapd.conf").write_text(_CONFIG.format(**values) + hidden)
        (self.root / "cyrus.conf").write_text(_SERVICES.format(**values))
        who.hand_over(self.root)
        self._sockets.chmod(0o755)


class _Passwords(socketserver.ThreadingUnixStreamServer):
    """Says whether a password is right, as saslauthd does: four strings come, each after its length in two bytes."""

    daemon_threads = True

    def __init__(self, path: Path, password: str) -> None:
        self.password = password.encode()
        super().__init__(str(path), _Answer)
        path.chmod(0o777)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Answer(socketserver.StreamRequestHandler):
    server: _Passwords

    def handle(self) -> None:
        _, password, *_ = [self.rfile.read(int.from_bytes(self.rfile.read(2), "big")) for _ in range(4)]
        verdict = b"OK" if password == self.server.password else b"NO wrong password"
        self.wfile.write(len(verdict).to_bytes(2, "big") + verdict)
