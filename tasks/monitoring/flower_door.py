"""Access to Flower: every request needs the login (RFC 7617), and wrong logins are slowed down.

Flower itself asks for the login page by page, and some pages (/metrics among them) do not ask. Here every request is
checked before it is matched to a page. This holds for every Flower that is started with this application.
"""

import hashlib
import hmac
import logging
import math
import sys
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

from celery.signals import import_modules

from tasks.monitoring.throttle import Throttle
from tasks.runtime import log

_logger = logging.getLogger(__name__)

_LOG_FORMAT = "[%(asctime)s: %(levelname)s/%(name)s] %(message)s"
UNAUTHORIZED, TOO_MANY_REQUESTS = 401, 429


def connect() -> None:
    """Have the Flower that this process may be about to run check every request."""
    import_modules.connect(_close)


def judge(authorization: str | None, address: str, logins: Sequence[str], throttle: Throttle) -> tuple[int, float]:
    """Decide about a request with this header field. Returns a status (0: let in) and how many seconds to wait first.

    `logins` are the right logins, each `user:password`. If there are none, nobody is let in.
    """
    if _login(authorization) is None:
        return UNAUTHORIZED, 0
    if (wait := throttle.wait(address)) > 0:
        return TOO_MANY_REQUESTS, wait
    if is_right(authorization, logins):
        throttle.right(address)
        return 0, 0
    throttle.wrong(address)
    _logger.warning("a wrong login from %s", address)
    return UNAUTHORIZED, 0


def is_right(authorization: str | None, logins: Sequence[str]) -> bool:
    """Whether this header field has one of the right logins. The time taken tells nothing about them."""
    login = _login(authorization) or b""
    # All logins are compared, by digests of equal length.
    return sum(hmac.compare_digest(_digest(login), _digest(right.encode())) for right in logins) > 0


def _close(**_: Any) -> None:
    # Called when the command line has loaded the program that it is to run.
    flower = sys.modules.get("flower.app")
    if flower is None or flower.Flower.find_handler.__module__ == __name__:  # no Flower, or done already
        return
    find_handler, refusal, throttle = flower.Flower.find_handler, _make_refusal(), Throttle()

    def find_handler_for_who_may(application: Any, request: Any, **kwargs: Any) -> Any:
        options = application.options
        if options.auth and not options.basic_auth:  # OAuth: Flower itself asks
            return find_handler(application, request, **kwargs)
        header = request.headers.get("Authorization")
        status, wait = judge(header, request.remote_ip, options.basic_auth or (), throttle)
        if not status:
            return find_handler(application, request, **kwargs)
        return application.get_handler_delegate(request, refusal, {"status": status, "wait": wait})

    flower.Flower.find_handler = find_handler_for_who_may
    log.set_up(logging.getLogger(), _LOG_FORMAT)


def _make_refusal() -> Any:
    """The handler of refused requests. The class is made in this function because only Flower needs Tornado."""
    from tornado.web import RequestHandler, stream_request_body

    @stream_request_body  # type: ignore[untyped-decorator, unused-ignore]
    class Refusal(RequestHandler):  # type: ignore[misc, unused-ignore]
        def initialize(self, status: int, wait: float) -> None:
            self.set_status(status)
            if status == UNAUTHORIZED:
                self.set_header("WWW-Authenticate", 'Basic realm="flower"')
            else:
                self.set_header("Retry-After", str(math.ceil(wait)))

        def check_xsrf_cookie(self) -> None:
            """Do not check the cookie: the request is refused anyway."""

        def prepare(self) -> None:
            self.finish("Access denied\n")

        def data_received(self, chunk: bytes) -> None:
            """Drop what a stranger uploads."""

    return Refusal


def _login(authorization: str | None) -> bytes | None:
    """The `user:password` in a header field; None where the field has none."""
    scheme, _, encoded = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return b64decode(encoded.strip(), validate=True) or None
    except ValueError:
        return None


def _digest(login: bytes) -> bytes:
    return hashlib.sha256(login).digest()
