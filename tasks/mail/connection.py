"""What IMAP, POP3 and SMTP share before the first command: the connection, TLS, and the errors of both.

The libraries' classes are subclassed to take their sockets from `open_socket`, which connects to a checked address
(`tasks.mail.hosts`). TLS still verifies the host name of the account.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tasks.errors import CertificateInvalidError, MailServerUnavailableError, ProtocolError
from tasks.mail.hosts import Network, connect
from tasks.mail.kinds import Encryption
from tasks.secrecy.secrets import said

_MAX_WORDS_LENGTH = 200


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
    """A TCP connection without TLS. Raises what `hosts.connect` raises."""
    connected = connect(endpoint.hostname, endpoint.port, endpoint.timeout, endpoint.allowed_networks)
    # If data is written in two parts, such as a message and its end,
    # the second must not wait for the acknowledgement of the first.
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """The TLS context of an endpoint. It verifies certificate and host name unless the endpoint says otherwise.

    Contexts are shared by connections, because reading the authorities
    takes 20 ms of CPU each time, so they must not be changed.
    """
    trusted = ssl.get_default_verify_paths().cafile
    return _tls_context(endpoint.ssl_verify, trusted, Path(trusted).stat().st_mtime_ns if trusted else None)


@lru_cache(maxsize=4)
def _tls_context(verify: bool, _trusted: str | None, _changed_at: int | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def translated(endpoint: Endpoint, doing: str) -> Iterator[None]:
    """Translate errors of the network and of TLS into EmailErrors.

    Errors that a protocol's library raises itself are translated
    by the session of that protocol, inside of this block.
    """
    where = f"{doing}, {endpoint}"
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise CertificateInvalidError(f"{endpoint}: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise MailServerUnavailableError(f"{where}: TLS failed: {error.reason or error}") from error
    except TimeoutError as error:
        raise MailServerUnavailableError(f"{where}: no answer in time") from error
    except OSError as error:
        raise MailServerUnavailableError(
            f"{where}: {said(str(error), _MAX_WORDS_LENGTH) or type(error).__name__}"
        ) from error
    except ValueError as error:
        raise ProtocolError(f"{where}: {said(str(error), _MAX_WORDS_LENGTH)}") from error
