"""A Redis with replicas and three Sentinels, on this machine, that fails over within a few seconds."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import redis

from native.ports import LOOPBACK, free_port
from native.process import Server
from tests.support.certificates import Authority
from tests.support.debians_redis import DebiansRedis
from tests.support.servers import RedisServer
from tests.support.worker import wait_until

MASTER = "broker"
# After so long a silent master is replaced. A busy machine lets a server wait for a second.
_DOWN_AFTER_SECONDS = 3
NEVER_SECONDS = 24 * 3600


class _Tls:
    """Certificates for a name, and for no address: whoever connects to an address is refused."""

    host = "localhost"

    def __init__(self, root: Path) -> None:
        authority = Authority(root)
        self.authority, files = str(authority.certificate), authority.issue("redis", self.host)
        self._files = str(files.certificate), str(files.key)

    def lines(self, port: int) -> Iterator[str]:
        """What a server is told that speaks TLS alone at this port, also to other servers."""
        certificate, key = self._files
        yield from ("port 0", f"tls-port {port}", "tls-auth-clients no", "tls-replication yes")
        yield from (f'tls-cert-file "{certificate}"', f'tls-key-file "{key}"', f'tls-ca-cert-file "{self.authority}"')


class _Node(Server):
    """A server that Redis's library speaks to."""

    port: int
    password: str
    tls: _Tls | None = None

    def client(self) -> redis.Redis:
        """A client of its first database."""
        tls = {"ssl": True, "ssl_ca_certs": self.tls.authority} if self.tls else {}
        options: dict[str, Any] = {"decode_responses": True, "socket_timeout": 5, **tls}
        return redis.Redis(self.tls.host if self.tls else LOOPBACK, self.port, password=self.password, **options)

    def is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Member(_Node):
    """A Redis that is the first master, or from its start on a replica of that."""

    name = "redis"

    def __init__(self, root: Path, plain: RedisServer, tls: _Tls | None, master: "Member | None" = None) -> None:
        super().__init__(root)
        self._plain, self._master = plain, master
        self.port, self.tls = plain.port, tls
        self.password = master.password if master else plain.password

    def start(self) -> None:
        """Start it; it goes on as what it was where it was started before."""
        file = self.root / "data" / "redis.conf"
        if not file.exists():
            self._plain.redis.init()
            file.write_text(file.read_text() + "\n".join(self._lines()) + "\n")
        super().start()

    def _lines(self) -> Iterator[str]:
        host = self.tls.host if self.tls else LOOPBACK
        yield from (f'requirepass "{self.password}"', f'masterauth "{self.password}"', "repl-diskless-sync-delay 0")
        yield from (
            "min-replicas-to-write 1",
            f"replica-announce-ip {host}",
        )
        yield from self.tls.lines(self.port) if self.tls else ()
        if self._master:
            yield f"replicaof {host} {self._master.port}"

    def command(self) -> list[str]:
        return self._plain.command()


class Sentinel(_Node):
    """One Sentinel, which watches the master that it is told."""

    name = "sentinel"

    def __init__(self, root: Path, master: Member, password: str, down_after_seconds: int) -> None:
        super().__init__(root)
        self.port, self.password, self.tls = free_port(), password, master.tls
        self._master, self._down_after_seconds = master, down_after_seconds

    def start(self) -> None:
        """Start it; it goes on with what it knew where it was started before."""
        self.root.mkdir(parents=True, exist_ok=True)
        file = self.root / "sentinel.conf"
        if not file.exists():
            file.write_text("\n".join(self._lines()) + "\n")
        super().start()

    def _lines(self) -> Iterator[str]:
        host = self.tls.host if self.tls else LOOPBACK
        yield from (f"port {self.port}", f"bind {LOOPBACK}", f'dir "{self.root}"', f'requirepass "{self.password}"')
        yield from self.tls.lines(self.port) if self.tls else ()
        yield from (
            "sentinel resolve-hostnames yes",
            "sentinel announce-hostnames yes",
            f"sentinel announce-ip {host}",
        )
        yield f"sentinel monitor {MASTER} {host} {self._master.port} 2"
        yield f"sentinel auth-pass {MASTER} {self._master.password}"
        yield f"sentinel down-after-milliseconds {MASTER} {self._down_after_seconds * 1000}"
        yield f"sentinel failover-timeout {MASTER} 6000"

    def command(self) -> list[str]:
        return [self._master.command()[0], str(self.root / "sentinel.conf"), "--sentinel"]


class RedisSite:
    """A master with two replicas and three Sentinels. As a context manager nothing of it outlives the block.

    With `tls` it is Debian's Redis, whose certificates are for a name.
    """

    def __init__(self, root: Path, *, tls: bool = False, down_after_seconds: int = _DOWN_AFTER_SECONDS) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._tls = _Tls(root) if tls else None
        folders = [root / f"redis{number}" for number in (1, 2, 3)]
        first, *others = [(DebiansRedis if tls else RedisServer)(folder) for folder in folders]
        master = Member(folders[0], first, self._tls)
        replicas = [
            Member(folder, plain, self._tls, master) for folder, plain in zip(folders[1:], others, strict=True)
        ]
        self.members = [master, *replicas]
        password = secrets.token_urlsafe(24)
        self.sentinels = [
            Sentinel(root / f"sentinel{number}", master, password, down_after_seconds) for number in (1, 2, 3)
        ]
        self._ended = ExitStack()

    @property
    def variables(self) -> dict[str, str]:
        """The environment of programs that use it."""
        host = self._tls.host if self._tls else LOOPBACK
        tls = {"REDIS_USE_SSL": "true", "REDIS_SSL_CA_CERTS": self._tls.authority} if self._tls else {}
        return {
            "REDIS_SENTINELS": ",".join(f"{host}:{one.port}" for one in self.sentinels),
            "REDIS_SENTINEL_PASSWORD": self.sentinels[0].password,
            "REDIS_PASSWORD": self.members[0].password,
            **tls,
        }

    @property
    def master(self) -> Member:
        """The member that the last Sentinel takes for the master."""
        with self.sentinels[-1].client() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(member for member in self.members if member.port == int(port))

    @property
    def replicas(self) -> Sequence[Member]:
        """All others."""
        master = self.master
        return [member for member in self.members if member is not master]

    def __enter__(self) -> Self:
        with ExitStack() as ended:
            for server in (*self.members, *self.sentinels):
                ended.enter_context(server)
            wait_until(self._is_whole, "the Sentinels do not see all replicas and each other")
            self._ended = ended.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.close()

    def _is_whole(self) -> bool:
        return all(map(self._sees_all, self.sentinels))

    def _sees_all(self, sentinel: Sentinel) -> bool:
        with sentinel.client() as client:
            replicas, others = client.sentinel_slaves(MASTER), client.sentinel_sentinels(MASTER)
        good = [one for one in replicas if one["master-link-status"] == "ok" and not one["is_sdown"]]
        return len(good) == len(self.members) - 1 and len(others) == len(self.sentinels) - 1

    def wait_until_replicated(self) -> None:
        """Wait until a replica has what the master has: the Sentinels choose the one that has the most."""
        with self.master.client() as client:
            client.incr("metabuilder:test")  # WAIT counts from the last write of its own connection
            wait_until(lambda: client.wait(1, 1000), "nothing is replicated")

    def fail_over(self) -> None:
        """Have the Sentinels make another member the master."""
        before = self.master
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", MASTER)
        self.wait_for_another_master(before)

    def wait_for_another_master(self, before: Member) -> None:
        """Wait until the Sentinels name another master, and it takes writes."""

        def is_there() -> bool:
            if (new := self.master) is before:
                return False
            try:
                with new.client() as client:
                    return bool(client.set("metabuilder:test", 1))
            except redis.RedisError:
                return False

        wait_until(is_there, "nothing failed over", 60)
