"""Real spam engines, from Debian's packages, on free ports of loopback and without asking anybody else."""

import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from native.errors import StackError
from native.ports import LOOPBACK, answers, free_port
from native.process import Server

# They read thousands of rules as they start, which takes half a minute on a slow and busy machine.
_START_SECONDS = 120
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
_RSPAMD = """\
lua = "$RULESDIR/rspamd.lua"
.include "$CONFDIR/metrics.conf"
.include "$CONFDIR/actions.conf"
.include "$CONFDIR/groups.conf"
.include "$CONFDIR/composites.conf"
options {{
  tempdir = "{root}";
  control_socket = "{root}/control.sock mode=0600";
  disable_hyperscan = true;
  dns {{ nameserver = ["127.0.0.1:1"]; timeout = 50ms; retransmits = 1; }}
}}
logging {{ type = "console"; level = "warning"; }}
worker "normal" {{ bind_socket = "{host}:{port}"; count = 1; }}
"""


class Spamd(Server):
    """SpamAssassin's daemon with the rules of its package; -L keeps it from the network."""

    name = "spamd"
    start_seconds = _START_SECONDS
    host = LOOPBACK

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.port = free_port()

    def command(self) -> list[str]:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        where = ["-i", self.host, "-p", str(self.port)]
        return [_program("spamd", "spamd"), "-L", "-x", "-m", "2", "-s", "stderr", *where, *user]

    def is_ready(self) -> bool:
        return "successfully spawned child" in self.log.read_text(errors="replace") and answers(self.port)


class Rspamd(Server):
    """Rspamd with the rules of its package and none of the modules that ask others."""

    name = "rspamd"
    start_seconds = _START_SECONDS

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}/checkv2"

    def command(self) -> list[str]:
        configuration = self.root / "rspamd.conf"
        configuration.write_text(_RSPAMD.format(root=self.root, host=LOOPBACK, port=self.port))
        folders = [f"--var={name}={self.root}" for name in ("DBDIR", "RUNDIR", "LOGDIR")]
        return [_program("rspamd", "rspamd"), "-f", "-i", "-c", str(configuration), *folders]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/ping", timeout=10) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise StackError(f"{name} is not installed: apt-get install {package}")
    return found
