"""The receiver of a webhook: a connection to a checked address of its host, over which requests are posted.

A receiver is checked like a mail server (tasks/mail/hosts.py): the address that is checked is the one connected to,
and TLS verifies the name. Redirects are not followed. An answer has to come, whole, within the time-out, however the
receiver spreads it; no more than some kilobytes of it are read.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from tasks.engine.webhooks.request import Request
from tasks.errors import EmailError, WebhookUrlError
from tasks.mail.connection import Endpoint, encrypted
from tasks.mail.hosts import connect
from tasks.mail.kinds import Encryption
from tasks.mail.retry_after import seconds_to_wait
from tasks.settings import get_settings

_MAX_ANSWER_BYTES = 16 * 1024
_MAX_URL_LENGTH = 2000
_PORTS = {"https": 443, "http": 80}
_ACCEPTED, _GONE = range(200, 300), 410
# The receiver itself, or what stands before it, is away or has too much to do.
_AWAY = (429, 502, 503, 504)


class Failure(NamedTuple):
    """Why an event was not accepted.

    `is_away`: the receiver takes nothing now, so no other event is worth a try; otherwise it refuses this event.
    """

    words: str
    is_away: bool = False
    is_gone: bool = False
    retry_after: float | None = None


def check_url(url: str) -> SplitResult:
    """The parts of a URL that may be an endpoint. Raises WebhookUrlError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise WebhookUrlError(str(error)) from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise WebhookUrlError("it must be like https://app.example.org/webhooks")
    if parts.scheme == "http" and not get_settings().webhooks.allow_http:
        raise WebhookUrlError("it must begin with https://, unless WEBHOOK_ALLOW_HTTP is true")
    if parts.username is not None or parts.fragment:
        raise WebhookUrlError("it must hold neither user, password nor fragment; requests are signed instead")
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > _MAX_URL_LENGTH:
        raise WebhookUrlError(f"it must be of printable ASCII without spaces, at most {_MAX_URL_LENGTH} characters")
    return parts


class Receiver:
    """Posts requests to the URL of an endpoint, over a connection that stays open for the next. As a context manager
    it closes the connection at the end. Raises WebhookUrlError when it is made."""

    def __init__(self, url: str) -> None:
        parts = check_url(url)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        port = parts.port or _PORTS[parts.scheme]
        settings = get_settings()
        self._seconds = settings.webhooks.timeout
        self._connection = _CheckedConnection(
            Endpoint(
                hostname=parts.hostname or "",
                port=port,
                encryption=Encryption.TLS if parts.scheme == "https" else Encryption.NONE,
                timeout=self._seconds,
                ssl_verify=True,
                allowed_networks=settings.mail.networks_at(port),
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def post(self, request: Request) -> Failure | None:
        """Post a request. Returns None where the receiver accepted it."""
        is_fresh = self._connection.sock is None
        try:
            return self._post(request)
        except (OSError, HTTPException, ValueError, EmailError) as error:
            self._connection.close()
            if is_fresh or isinstance(error, TimeoutError):
                return Failure(_words(error, self._seconds), is_away=True)
        # The receiver may have closed a connection that was silent; that says nothing of it.
        return self.post(request)

    def _post(self, request: Request) -> Failure | None:
        if self._connection.sock is None:
            self._connection.connect()
        with self._connection.ended_after(self._seconds):
            self._connection.request("POST", self._target, body=request.body, headers=dict(request.headers))
            answer = self._connection.getresponse()
            answer.read(_MAX_ANSWER_BYTES)
        if not answer.isclosed():
            self._connection.close()  # there is more of the answer, which nobody reads
        return _failure(answer)


class _CheckedConnection(HTTPConnection):
    """Connects to an address that was checked, and can be ended by another thread at any time."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint.hostname, endpoint.port, timeout=endpoint.timeout)
        self._is_encrypted = endpoint.encryption == Encryption.TLS
        self.default_port = _PORTS["https" if self._is_encrypted else "http"]
        self._endpoint = endpoint
        # The same connection under another descriptor: the one that TLS works on changes its owner meanwhile.
        self._handle: socket.socket | None = None

    def connect(self) -> None:
        endpoint = self._endpoint
        connected = connect(endpoint.hostname, endpoint.port, endpoint.timeout, endpoint.allowed_networks)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handle = connected.dup()
        with self.ended_after(endpoint.timeout):
            self.sock = encrypted(connected, endpoint) if self._is_encrypted else connected

    def close(self) -> None:
        super().close()
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    @contextmanager
    def ended_after(self, seconds: float) -> Iterator[None]:
        """A block after whose seconds the connection ends.

        The time-out of a socket is one for each read, and a receiver could send a byte before each of them.
        """
        is_over = threading.Event()
        timer = threading.Timer(seconds, _end, (self._handle, is_over))
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, HTTPException, ValueError) as error:
            raise (TimeoutError() if is_over.is_set() else error) from None
        finally:
            timer.cancel()
        if is_over.is_set():  # what was cut short can look like a whole answer
            raise TimeoutError


def _end(connected: socket.socket, is_over: threading.Event) -> None:
    is_over.set()
    with suppress(OSError):  # it has ended already
        connected.shutdown(socket.SHUT_RDWR)


def _failure(answer: HTTPResponse) -> Failure | None:
    if answer.status in _ACCEPTED:
        return None
    return Failure(
        f"answered {answer.status}",
        is_away=answer.status in _AWAY,
        is_gone=answer.status == _GONE,
        retry_after=seconds_to_wait(answer.getheader("Retry-After"), answer.getheader("Date")),
    )


def _words(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no whole answer within {seconds:g} seconds"
    if isinstance(error, EmailError):
        return f"{error.code}: {error.detail}"
    if isinstance(error, OSError) and error.strerror:
        return f"no connection: {error.strerror}"
    return f"no answer: {type(error).__name__}"
