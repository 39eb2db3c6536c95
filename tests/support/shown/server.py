"""Serves an application's pages that show mails, and notes each request."""

import base64
import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

_HERE = Path(__file__).parent
APPLICATION = (_HERE / "application.html").read_text(encoding="utf-8")
_WATCH = (_HERE / "watch.html").read_text(encoding="utf-8")
_GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_MAIL = re.compile(r"/mail/(\d+)")
_NUMBER = re.compile(r"(?:leak|picture)/(\d+)/")
_TYPES = {"js": "text/javascript", "html": "text/html; charset=utf-8", "css": "text/css", "svg": "image/svg+xml"}


class Application(ThreadingHTTPServer):
    """As a context manager it serves for the block. `pages` are what is at /mail/NUMBER.

    `requests` are the host and path of every other request. What has `leak/NUMBER/` in its path is there: scripts and
    pages tell the number to the page around them, as the mails of `vectors.tsv` do.
    """

    daemon_threads = True
    request_queue_size = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[int, str] = {}
        self.requests: list[tuple[str, str]] = []
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join(5)
        self.server_close()

    def answer(self, host: str, path: str) -> tuple[str, bytes] | None:
        """Type and content of what is at a path, None where nothing is."""
        if path == "/watch":
            return _TYPES["html"], _WATCH.encode()
        if mail := _MAIL.fullmatch(path):
            return _TYPES["html"], self.pages[int(mail[1])].encode()
        self.requests.append((host, path))
        if not (number := _NUMBER.search(path)):
            return None
        says = f"top.postMessage({number[1]},`*`)"
        kind = path.rpartition(".")[2]
        content = {"js": says.encode(), "html": f"<script>{says}</script>".encode(), "css": b"", "svg": b""}
        return _TYPES.get(kind, "image/gif"), content.get(kind, _GIF)


class _Handler(BaseHTTPRequestHandler):
    server: Application
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # http.server's name
        found = self.server.answer(self.headers.get("Host", ""), self.path)
        kind, content = found or ("text/plain", b"")
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815  # http.server's name

    def handle(self) -> None:
        # A browser leaves when it no longer needs what it asked for.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Nothing: what is asked for is in `requests`."""
