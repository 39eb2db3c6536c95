"""Debian's Redis, and that over TLS only: the wheel's has no TLS."""

import shutil
from pathlib import Path

import redis

from tests.support.certificates import Authority
from tests.support.servers import RedisServer

HOST = "127.0.0.1"


class DebiansRedis(RedisServer):
    """That of the distribution, an older one than the wheel's."""

    def command(self) -> list[str]:
        # One program that does what its name says; the package redis-server starts a service besides.
        program = self.root / "redis-server"
        if not program.exists():
            found = shutil.which("redis-check-rdb")
            assert found, "the package redis-tools is missing"
            program.symlink_to(found)
        return [str(program), *super().command()[1:]]


class TlsRedis(DebiansRedis):
    """Over TLS, with a certificate of an authority that must be told to clients."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        root.mkdir(parents=True, exist_ok=True)
        authority = Authority(root)
        self._files, self._authority = authority.issue("redis", HOST), str(authority.certificate)
        self.variables = {
            "REDIS_URL": self.url.replace("redis://", "rediss://"),
            "REDIS_SSL_CA_CERTS": self._authority,
        }

    def command(self) -> list[str]:
        certificate, key = str(self._files.certificate), str(self._files.key)
        tls = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
        return [*super().command(), *tls, "--tls-cert-file", certificate, "--tls-key-file", key]

    def client(self) -> redis.Redis:
        """A client of the broker's database."""
        return redis.Redis(
            host=HOST, port=self.port, password=self.password, ssl=True, ssl_ca_certs=self._authority,
            decode_responses=True,
        )  # fmt: skip

    def is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
