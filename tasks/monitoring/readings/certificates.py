"""When the certificates of the site end, as this host sees them: what the servers show, whom this host trusts, and
what this host shows to others."""

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from cryptography import x509
from redis.exceptions import RedisError
from sqlalchemy import make_url

from tasks.runtime.broker.master import find_master
from tasks.secrecy.urls import postgresql_servers
from tasks.settings import Settings

_PATIENCE_SECONDS = 2
_REDIS_PORT = 6379
# PostgreSQL's SSLRequest: the length of the message, and a number that stands for it (protocol flow, SSL session).
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# Certificates of this host that workers and servers do not show to each other: of exporters, of the Prometheus that
# asks them, of the collector of journals and of those who send to it.
_OWN = Path("/etc/metabuilder/tls")
_OF_THIS_HOST = ("exporters", "monitoring", "log_collector", "log_sender")
_ENCRYPTED = ("require", "verify-ca", "verify-full")


class _Server(NamedTuple):
    name: str
    hostname: str
    port: int
    begins_with_tls: bool = True  # else TLS has to be asked for


def seconds_left(settings: Settings) -> dict[str, float]:
    """For how many seconds each certificate is still valid, negative where it has ended: of the `broker`, of the
    `results` if they are elsewhere, of `postgresql` (of several servers, the first to end), of the `authority`, and
    those that this host has in files: of `exporters`, `monitoring`, `log_collector` and `log_sender`.

    What is not encrypted, or cannot be looked at now, is left out.
    """
    ends: dict[str, datetime] = {}
    for server in _servers(settings):
        with suppress(OSError, ValueError):
            end = _end_of_server(server)
            ends[server.name] = min(end, ends.get(server.name, end))
    files = {name: _OWN / f"{name}.crt" for name in _OF_THIS_HOST}
    if settings.redis.ssl_ca_certs:
        files["authority"] = Path(settings.redis.ssl_ca_certs)
    for name, file in files.items():
        with suppress(OSError, ValueError):
            ends[name] = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    now = datetime.now(UTC)
    return {name: (end - now).total_seconds() for name, end in ends.items()}


def _servers(settings: Settings) -> Iterator[_Server]:
    seen = set()
    for name, place in {"broker": settings.redis.broker, "results": settings.redis.results}.items():
        url = urlsplit(place.url)
        address = url.hostname or "", url.port or _REDIS_PORT
        if url.scheme == "rediss" and address not in seen:
            seen.add(address)
            if place.sentinels:
                with suppress(RedisError):  # there is no master now, so nothing is found out
                    address, _ = find_master(place.sentinels)
            yield _Server(name, *address)
    url_of_database = settings.database.url.get_secret_value()
    if make_url(url_of_database).query.get("sslmode") in _ENCRYPTED:
        for host, port in postgresql_servers(url_of_database):
            yield _Server("postgresql", host, port, begins_with_tls=False)


def _end_of_server(server: _Server) -> datetime:
    """When the certificate of a server ends. Nothing is sent to the server, so the certificate is not verified: one
    that has ended is to be seen too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((server.hostname, server.port), _PATIENCE_SECONDS) as plain:
        if not server.begins_with_tls:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                raise ValueError(f"{server.name} does not encrypt")
        with context.wrap_socket(plain) as encrypted:
            certificate = encrypted.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(certificate or b"").not_valid_after_utc
