"""An OAuth2 token endpoint on this machine, over real HTTPS: rotates refresh tokens, throttles, breaks and revokes.

No provider can be asked to do that for a test. `introspect` on a second port, without TLS, is what a Dovecot asks
whether a token is good (RFC 7662).
"""

import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from native.dovecot import TlsFiles

Answer = tuple[int, dict[str, str], bytes]


class TokenServer:
    """As a context manager it runs for the block. `answer` is what the next requests get instead of tokens."""

    def __init__(self, files: TlsFiles) -> None:
        self.refresh_token = "refresh-1"
        self.client_secret: str | None = "client-secret"
        self.rotates = False
        self.lifetime: Any = 3600
        self.username = "ada"
        self.valid: dict[str, float] = {}  # access tokens and when they end, in seconds of time.time()
        self.requests: list[dict[str, str]] = []
        self.answer: Answer | None = None
        self.delay = 0.0
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self._tokens = _serve(self._token)
        self._tokens.socket = context.wrap_socket(self._tokens.socket, server_side=True)
        self._introspection = _serve(self._introspect)
        self.port = self._tokens.server_address[1]
        self.introspection_url = f"http://127.0.0.1:{self._introspection.server_address[1]}/introspect"

    @property
    def endpoint(self) -> str:
        """Where tokens are refreshed."""
        return f"https://localhost:{self.port}/token"

    def refuse(self, status: int, error: str = "", headers: dict[str, str] | None = None, **more: Any) -> None:
        """Answer so from now on; with an empty error, with something that is no JSON."""
        body = json.dumps({"error": error, **more}).encode() if error else b"<html>Service Unavailable</html>"
        self.answer = (status, headers or {}, body)

    def __enter__(self) -> "TokenServer":
        for server in (self._tokens, self._introspection):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._tokens, self._introspection):
            server.shutdown()
            server.server_close()

    def _token(self, form: dict[str, str]) -> Answer:
        with self._lock:
            self.requests.append(form)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.delay)
        with self._lock:
            self.at_once -= 1
            return self.answer or self._refreshed(form)

    def _refreshed(self, form: dict[str, str]) -> Answer:
        if form.get("client_secret") != self.client_secret:
            return _json(401, {"error": "invalid_client"})
        if form.get("refresh_token") != self.refresh_token or form.get("grant_type") != "refresh_token":
            return _json(400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."})
        token = f"access-{len(self.requests)}"
        self.valid[token] = time.time() + float(self.lifetime or 600)
        answer = {"access_token": token, "token_type": "Bearer"}
        if self.lifetime is not None:
            answer["expires_in"] = self.lifetime
        if self.rotates:
            self.refresh_token = answer["refresh_token"] = f"refresh-{len(self.requests) + 1}"
        return _json(200, answer)

    def _introspect(self, form: dict[str, str]) -> Answer:
        is_active = self.valid.get(form.get("token", ""), 0) > time.time()
        return _json(200, {"active": is_active, **({"username": self.username} if is_active else {})})


def _json(status: int, value: dict[str, Any]) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _serve(answer: Callable[[dict[str, str]], Answer]) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            status, headers, content = answer({name: values[0] for name, values in parse_qs(body).items()})
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def trusted(folder: Path) -> tuple[Path, TlsFiles]:
    """An authority to trust, and a certificate of it for `localhost`."""
    from tests.support.certificates import Authority

    authority = Authority(folder)
    return authority.certificate, authority.issue("token-server", "localhost")
