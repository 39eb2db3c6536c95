"""The connections that a worker's processes hold to Redis and PostgreSQL, as the kernel knows them (proc_pid_net(5)).

The pools are in the processes that run tasks, which tell nobody of them. Their main process sees their sockets, and
need not ask them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tasks.secrecy.urls import postgresql_servers
from tasks.settings import Settings

_ESTABLISHED = "01"
_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_REDIS_PORT = 6379


def ports(settings: Settings) -> Mapping[int, str]:
    """The ports of the servers, and whose they are: `redis` (broker and results) or `postgresql`."""
    urls = [urlsplit(place.url) for place in (settings.redis.broker, settings.redis.results)]
    databases = postgresql_servers(settings.database.url.get_secret_value())
    return {
        **{server.port: "postgresql" for server in databases},
        **{url.port or _REDIS_PORT: "redis" for url in urls},
    }


def held(pids: Iterable[int], servers: Mapping[int, str]) -> Mapping[str, int]:
    """How many connections over TCP these processes hold to each server, by the server's port.

    A connection that several processes inherited counts once.
    """
    inodes = {inode for pid in pids for inode in _sockets(pid)}
    counts = Counter(servers[port] for inode, port in _connections() if inode in inodes and port in servers)
    return {server: counts[server] for server in sorted({*servers.values()})}


def _sockets(pid: int) -> Iterator[str]:
    """The inodes of the sockets of a process; none where it has ended, or may not be looked at."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                kind, _, number = str(entry.readlink()).partition(":[")
                if kind == "socket":
                    yield number.rstrip("]")


def _connections() -> Iterator[tuple[str, int]]:
    """Each connection of this host over TCP: its inode, and the port at its other end."""
    for table in _TABLES:
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _ESTABLISHED:
                    yield columns[9], int(columns[2].rpartition(":")[2], 16)
