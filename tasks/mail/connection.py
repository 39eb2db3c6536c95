"""Sockets for IMAP, POP3 and SMTP, with TLS or without it.

`open_socket` connects to a checked address (`tasks.mail.hosts`). TLS still verifies the host name of the account.
"""

import socket
import ssl
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tasks.mail.hosts import Network, connect
from tasks.mail.kinds import Encryption


class Endpoint(NamedTuple):
    """Where to connect. `encryption` is none, tls or starttls; `timeout` is in seconds, for each read.

    A host without a public address is connected to only if its address is in `allowed_networks`.
    """

    hostname: str
    port: int
    encryption: Encryption
    timeout: int
    ssl_verify: bool
    allowed_networks: tuple[Network, ...]

    def __str__(self) -> str:
        return f"{self.hostname}:{self.port}"


def open_socket(endpoint: Endpoint) -> socket.socket:
    """A TCP connection, with TLS if the endpoint's connections begin with it.

    Raises what `hosts.connect` raises, and ssl.SSLError.
    """
    connected = connect(endpoint.hostname, endpoint.port, endpoint.timeout, endpoint.allowed_networks)
    # If data is written in two parts, such as a message and its end,
    # the second must not wait for the acknowledgement of the first.
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return encrypted(connected, endpoint) if endpoint.encryption == Encryption.TLS else connected


def encrypted(connected: socket.socket, endpoint: Endpoint) -> ssl.SSLSocket:
    """Begin TLS on a connection. Raises ssl.SSLError. Only the returned socket may be used from then on."""
    return tls_context(endpoint).wrap_socket(connected, server_hostname=endpoint.hostname)


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """The TLS context of an endpoint. It verifies certificate and host name unless the endpoint says otherwise.

    Contexts are shared by connections, because reading the authorities
    takes 20 ms of CPU each time, so they must not be changed.
    """
    trusted = ssl.get_default_verify_paths().cafile
    return _tls_context(endpoint.ssl_verify, trusted, Path(trusted).stat().st_mtime_ns if trusted else None)


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket that also closes when the soft time limit of the task passes during the handshake.

    Python's own closes after errors of the network alone, and nothing else holds the socket yet.
    """

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


@lru_cache(maxsize=4)
def _tls_context(verify: bool, _trusted: str | None, _changed_at: int | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = _TlsSocket
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
