"""Runs a Dovecot (2.3) without root: one password for every user, mail as Maildir under `mail_root/USER`."""

import imaplib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from native.errors import StackError
from native.ports import LOOPBACK, answers, free_port
from native.process import Server
from native.unprivileged import Identity, identity

_PROGRAMS = Path("/usr/lib/dovecot")

# The path of the longest socket below base_dir must fit into 107 bytes.
_MAX_BASE_LENGTH = 107 - len("/login/login-master-notify0123456789abcdef")

_CONFIG = """\
protocols = {protocols}
listen = {host}
base_dir = {base}
state_dir = {base}
log_path = /dev/stderr
ssl = {ssl}
{certificate}
disable_plaintext_auth = no
auth_mechanisms = plain login
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 0
first_valid_gid = 0
mail_location = maildir:{mail_root}/%u
mail_max_userip_connections = 0
passdb {{
  driver = static
  args = password={{PLAIN.HEX}}{password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home=/nonexistent
}}
namespace inbox {{
  inbox = yes
  separator = /
  mailbox Sent {{
    special_use = \\Sent
  }}
  mailbox Drafts {{
    special_use = \\Drafts
  }}
  mailbox Archive {{
    special_use = \\Archive
  }}
  mailbox Trash {{
    special_use = \\Trash
  }}
  mailbox Junk {{
    special_use = \\Junk
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {tls_port}
    ssl = yes
  }}
}}
{pop3}
{extra}
"""

# Unlike Dovecot's default, messages that POP3 has fetched do not count as read in IMAP.
_POP3 = """\
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = {tls_port}
    ssl = yes
  }}
}}
pop3_no_flag_updates = yes
"""


@dataclass(frozen=True)
class TlsFiles:
    """A certificate (with its chain) and its key, both PEM."""

    certificate: Path
    key: Path


class Dovecot(Server):
    """Serves IMAP on `port`; with `tls` also STARTTLS there, and TLS from the first byte on `tls_port`.

    With `pop3` it serves the INBOX by POP3 as well, on `pop3_port` and `pop3s_port`.

    Its sockets are in `sockets`, by default in `root`, or in a folder of their own where that path is too long.
    """

    name = "dovecot"
    # Dovecot would wait seconds for idle children. Mail on disk
    # is complete at any moment, so it may be stopped quickly.
    stop_seconds = 0.5
    children_seconds = 0.1
    host = LOOPBACK

    def __init__(
        self,
        root: Path,
        mail_root: Path,
        password: str,
        tls: TlsFiles | None = None,
        extra_config: str = "",
        *,
        port: int | None = None,
        pop3: bool = False,
        sockets: Path | None = None,
    ) -> None:
        super().__init__(root)
        self.mail_root = mail_root
        self.password = password
        self.tls = tls
        self.extra_config = extra_config
        self.port = port or free_port()
        self.tls_port = free_port(taken={self.port}) if tls else 0
        self.pop3_port = free_port(taken={self.port, self.tls_port}) if pop3 else 0
        self.pop3s_port = free_port(taken={self.port, self.tls_port, self.pop3_port}) if pop3 and tls else 0
        self._base = sockets or root / "base"
        self._made_base: Path | None = None

    def init(self) -> None:
        """Write the configuration, which holds the password, so only its owner may read the file."""
        for folder in (self.root, self.mail_root):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(str(self._base)) > _MAX_BASE_LENGTH:
            self._base = self._made_base = Path(tempfile.mkdtemp(prefix="dovecot"))
        self._base.mkdir(exist_ok=True)
        self._base.chmod(0o755)  # Dovecot would set this itself, with a warning; `root` is closed
        config = self.root / "dovecot.conf"
        config.touch(mode=0o600)
        config.write_text(self._config(identity()))
        for folder in (self.root, self.mail_root, self._base):
            identity().hand_over(folder)

    def command(self) -> list[str]:
        return [*identity().prefix, str(server_binary()), "-F", "-c", str(self.root / "dovecot.conf")]

    def start(self) -> None:
        """Start Dovecot and wait until it greets. Raises StackError if Dovecot 2.3 is not installed."""
        if self.pop3_port and not (_PROGRAMS / "pop3-login").exists():
            raise StackError("Dovecot's POP3 server is not installed: apt-get install dovecot-pop3d")
        self.init()
        super().start()

    def stop(self) -> None:
        """Stop Dovecot and remove the sockets that are outside of `root` because of the length of its path."""
        super().stop()
        if self._made_base:
            shutil.rmtree(self._made_base, ignore_errors=True)

    def is_ready(self) -> bool:
        return answers(self.port) and self._greets()

    def _greets(self) -> bool:
        try:
            imaplib.IMAP4(self.host, self.port, timeout=2).logout()
        except (OSError, imaplib.IMAP4.error):
            return False
        return True

    def _config(self, who: Identity) -> str:
        certificate = ""
        if self.tls:
            certificate = f"ssl_cert = <{self.tls.certificate}\nssl_key = <{self.tls.key}"
        pop3 = _POP3.format(port=self.pop3_port, tls_port=self.pop3s_port) if self.pop3_port else ""
        return _CONFIG.format(
            protocols="imap pop3" if pop3 else "imap",
            pop3=pop3,
            host=self.host,
            base=self._base,
            ssl="yes" if self.tls else "no",
            certificate=certificate,
            user=who.user,
            group=who.group,
            uid=who.uid,
            gid=who.gid,
            mail_root=str(self.mail_root).replace("%", "%%"),  # %u and the like are expanded there
            # In hexadecimal: any character may be in a password, and `%` would be expanded.
            password=self.password.encode().hex(),
            port=self.port,
            tls_port=self.tls_port,
            extra=self.extra_config,
        )


def server_binary() -> Path:
    """The installed Dovecot. Raises StackError when there is none."""
    found = shutil.which("dovecot", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise StackError("Dovecot is not installed: apt-get install dovecot-imapd")
    return Path(found)


def is_usable() -> bool:
    """Whether a Dovecot is installed whose configuration is written as above (2.4 changed its language)."""
    try:
        said = subprocess.run([server_binary(), "--version"], capture_output=True, text=True, check=False).stdout
    except StackError:
        return False
    return re.match(r"2\.3\.", said) is not None
