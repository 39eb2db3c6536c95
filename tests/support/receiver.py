"""A receiver of webhooks: a real HTTP server that checks each request with the package `standardwebhooks`."""

import http.server
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from native.dovecot import TlsFiles


class Received(NamedTuple):
    """A request. `signed_by` are the secrets that its signatures fit."""

    path: str
    id: str
    body: dict[str, Any]
    signed_by: tuple[str, ...]

    @property
    def what(self) -> Any:
        """The number that the test put into the event."""
        return self.body["data"].get("number")


Answer = tuple[int, dict[str, str]]
ACCEPTED: Answer = (204, {})


class Receiver:
    """As a context manager it runs for the block. `answer` is asked for the answer to each request."""

    def __init__(self, files: TlsFiles | None = None) -> None:
        self.secrets: list[str] = []
        self.answer: Callable[[Received], Answer] = lambda _: ACCEPTED
        self.received: list[Received] = []
        self.accepted: list[Received] = []
        self._lock = threading.Lock()
        self._server = self._serve(0)
        self.port = self._server.server_address[1]
        self._scheme = "https" if files else "http"
        if files:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.certificate, files.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        """Where it listens."""
        return f"{self._scheme}://{host}:{self.port}{path}"

    def numbers(self, account: str) -> list[Any]:
        """The numbers of the events of an account that were accepted, in the order in which they came."""
        return [one.what for one in self.accepted if one.body["email_client_id"] == account]

    def close(self) -> None:
        """Refuse connections from now on, as a receiver that is down."""
        self._server.shutdown()
        self._server.server_close()

    def reopen(self) -> None:
        """Take connections again, at the same port."""
        self._server = self._serve(self.port)
        self._start()

    def __enter__(self) -> "Receiver":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        fitting = tuple(secret for secret in self.secrets if _fits(secret, headers, body))
        one = Received(path, headers["webhook-id"], json.loads(body), fitting)
        with self._lock:
            self.received.append(one)
        answer = self.answer(one)
        if 200 <= answer[0] < 300:
            with self._lock:
                self.accepted.append(one)
        return answer

    def _serve(self, port: int) -> http.server.ThreadingHTTPServer:
        take = self._take

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                """The other side was killed, which tests do."""

        return Server(("127.0.0.1", port), Handler)


def _fits(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True
