"""When certificates end, as Redis shows them, which begins with TLS, and PostgreSQL, which is asked for TLS."""

import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.monitoring.readings import certificates
from tasks.monitoring.readings.certificates import seconds_left
from tasks.settings import get_settings
from tests.support.certificates import Authority, TlsFiles
from tests.support.tcp_server import TcpServer

DAY = 86_400


class Encrypted(TcpServer):
    """Shakes hands. With `asked` it expects PostgreSQL's question for TLS first, and answers it with this byte."""

    def __init__(self, files: TlsFiles, asked: bytes = b"") -> None:
        super().__init__()
        self._asked = asked
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files.certificate, files.key)

    def serve(self, connection: socket.socket, number: int) -> None:
        with connection:
            if self._asked:
                assert connection.recv(8) == b"\0\0\0\x08\x04\xd2\x16\x2f"
                connection.sendall(self._asked)
            if self._asked != b"N":
                self._context.wrap_socket(connection, server_side=True).close()


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this host has the certificates that it shows to others."""
    monkeypatch.setattr(certificates, "_OWN", tmp_path / "own")
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def test_what_servers_show_is_told_also_when_it_has_ended(
    tmp_path: Path, files: Path, environment: Callable[..., None]
) -> None:
    authority = Authority(tmp_path)
    good = authority.issue("good", "127.0.0.1", timedelta(days=30))
    ended = authority.issue("ended", "127.0.0.1", timedelta(days=-2))
    with Encrypted(good) as redis, Encrypted(ended, b"S") as postgresql, Encrypted(good, b"N") as plain:
        environment(
            REDIS_URL=f"rediss://127.0.0.1:{redis.port}",
            REDIS_SSL_CA_CERTS=str(authority.certificate),
            DATABASE_URL=f"postgresql+psycopg2://u:p@127.0.0.1:{postgresql.port}/d?sslmode=verify-full",
        )
        left = seconds_left(get_settings())
        assert {name: round(seconds / DAY) for name, seconds in left.items()} == {
            "broker": 30,
            "postgresql": -2,
            "authority": 1,
        }

        # So is what exporters and the collector of journals show, as it is in the files of this host
        for name, issued in {"exporters": good, "log_collector": ended}.items():
            (files / f"{name}.crt").write_bytes(Path(issued.certificate).read_bytes())
        (files / "monitoring.crt").write_text("no certificate")
        found = seconds_left(get_settings())
        assert (round(found["exporters"] / DAY), round(found["log_collector"] / DAY)) == (30, -2)
        assert "monitoring" not in found
        (files / "exporters.crt").unlink()
        (files / "log_collector.crt").unlink()

        # One that does not encrypt, and one that is away, are left out
        environment(
            REDIS_URL="rediss://127.0.0.1:1",
            DATABASE_URL=f"postgresql+psycopg2://u:p@127.0.0.1:{plain.port}/d?sslmode=require",
        )
        assert seconds_left(get_settings()).keys() == {"authority"}
    environment(REDIS_URL="redis://127.0.0.1:1", REDIS_SSL_CA_CERTS="", DATABASE_URL="postgresql://u:p@127.0.0.1/d")
    assert seconds_left(get_settings()) == {}


@pytest.mark.parametrize("content", [b"", b"no certificate"])
def test_an_authority_that_cannot_be_read_is_left_out(
    content: bytes, tmp_path: Path, environment: Callable[..., None]
) -> None:
    file = tmp_path / "ca.crt"
    file.write_bytes(content)
    environment(REDIS_URL="redis://127.0.0.1:1", REDIS_SSL_CA_CERTS=str(file))
    assert seconds_left(get_settings()) == {}
