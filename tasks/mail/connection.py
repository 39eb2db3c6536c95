"""What IMAP, POP3 and SMTP have in common before the first command: the connection, TLS, and what goes wrong there.

The libraries are subclassed to take their sockets from `open_socket`, which connects to a checked address
(`tasks.mail.hosts`), while TLS goes on verifying the name that the account gives.
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
from tasks.secrecy.secrets import said

_MAX_WORDS_LENGTH = 200


class Endpoint(NamedTuple):
    """Where to connect. `encryption` is none, tls or starttls; `timeout` is in seconds, for each read.

    A host that is not public is connected to only where `allowed_networks` holds its address.
    """

    hostname: str
    port: int
    encryption: str
    timeout: int
    ssl_verify: bool
    allowed_networks: tuple[Network, ...]

    def __str__(self) -> str:
        return f"{self.hostname}:{self.port}"


def open_socket(endpoint: Endpoint) -> socket.socket:
    """A TCP connection without TLS. Raises what `hosts.connect` raises."""
    connected = connect(endpoint.hostname, endpoint.port, endpoint.timeout, endpoint.allowed_networks)
    # What is written in two parts, such as a message and its end, must not wait for the first one's acknowledgement.
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """Verifies certificate and name unless the endpoint says otherwise. To be used with the endpoint's host name.

    It is shared by connections, and must not be changed: reading the authorities takes 20 ms of CPU each time.
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
    """Whatever the network or TLS raises, as one of our errors.

    What a protocol's library raises by itself is for its module to translate, inside of this.
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
