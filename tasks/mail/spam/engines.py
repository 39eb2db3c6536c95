"""Spam engines that may be asked besides the rules: SpamAssassin's spamd, and HTTP services with Rspamd's protocol.

Both get a whole message and answer with its points and with the limit from which a message is spam. If an engine is
down, slow or answers nonsense, SpamEngineUnavailableError is raised. An engine may also have no opinion on a message.
"""

import json
import re
import socket
import ssl
import time
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tasks.errors import SpamEngineUnavailableError
from tasks.secrecy.secrets import learn, said
from tasks.secrecy.urls import secrets_of_url

SPAMD: Final = "spamassassin"
HTTP_API: Final = "spam_api"

# The same limit as spamc's (its option -s); spam is small.
MAX_MESSAGE_BYTES: Final = 500_000

_MAX_ANSWER_LENGTH: Final = 256 * 1024
_MAX_SYMBOLS: Final = 8
_MAX_WORDS_LENGTH: Final = 1000
_HEAD: Final = re.compile(rb"SPAMD/[\d.]+ +(\d+) +([^\r\n]*)")
_SPAM: Final = re.compile(rb"^Spam: *\w+ *; *(-?[\d.]+) */ *(-?[\d.]+)", re.IGNORECASE | re.MULTILINE)


class Opinion(NamedTuple):
    """An engine's opinion. `score` is 0 to 1, where 0.5 is the
    engine's own limit; None: the engine has no opinion."""

    engine: str
    score: float | None
    detail: str


def ask_spamd(raw: bytes, host: str, port: int, timeout: float) -> Opinion:
    """SpamAssassin's opinion by the SPAMC/1.5 protocol (spamd/PROTOCOL), within `timeout` seconds in all.

    Raises SpamEngineUnavailableError.
    """
    if len(raw) > MAX_MESSAGE_BYTES:
        return Opinion(SPAMD, None, f"not asked: larger than {MAX_MESSAGE_BYTES} bytes")
    request = b"SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n\r\n" % len(raw)
    deadline = time.monotonic() + timeout
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(request + raw)
            connection.shutdown(socket.SHUT_WR)
            answer = _read(connection, deadline)
    except OSError as error:
        raise SpamEngineUnavailableError(f"spamd at {host}:{port}: {error}") from error
    head, _, body = answer.partition(b"\r\n\r\n")
    status, points = _HEAD.match(head), _SPAM.search(head)
    if status is None:
        raise SpamEngineUnavailableError(f"spamd at {host}:{port} does not speak its protocol")
    if status[1] != b"0" or points is None:
        return Opinion(SPAMD, None, f"no opinion: {said(status[2].decode('ascii', 'replace'), _MAX_WORDS_LENGTH)}")
    symbols = body.decode("ascii", "replace").strip().split(",")
    return _opinion(SPAMD, float(points[1]), float(points[2]), symbols)


def ask_http(raw: bytes, url: str, timeout: float) -> Opinion:
    """An HTTP service's opinion: POST of the message, answered as Rspamd's /checkv2 does.

    The answer is a JSON object with the numbers `score` and `required_score` and, if it likes, `symbols` (an object
    by name). Certificates are verified and redirects are not followed. Raises SpamEngineUnavailableError.
    """
    import httpx  # not at import: a worker without such a service never needs it

    if len(raw) > MAX_MESSAGE_BYTES:
        return Opinion(HTTP_API, None, f"not asked: larger than {MAX_MESSAGE_BYTES} bytes")
    where = urlsplit(url).hostname  # the rest of the URL may hold a secret
    learn(*secrets_of_url(url, is_secret=True))
    deadline = time.monotonic() + timeout
    try:
        with (
            httpx.Client(timeout=timeout, verify=ssl.create_default_context(), trust_env=False) as client,
            client.stream("POST", url, content=raw, headers={"Content-Type": "message/rfc822"}) as response,
        ):
            answer = b""
            for chunk in response.iter_bytes():
                answer += chunk
                if len(answer) > _MAX_ANSWER_LENGTH or time.monotonic() > deadline:
                    raise SpamEngineUnavailableError(f"{where} does not come to an end")
            if response.status_code != httpx.codes.OK:
                raise SpamEngineUnavailableError(f"{where} answers HTTP {response.status_code}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SpamEngineUnavailableError(f"{where}: {type(error).__name__}") from error
    return _read_json(answer, str(where))


def _read_json(answer: bytes, where: str) -> Opinion:
    try:
        said = json.loads(answer)
        points, required = float(said["score"]), float(said["required_score"])
        if said.get("is_skipped") and not points:
            return Opinion(HTTP_API, None, "no opinion: skipped")
        symbols = said.get("symbols") or {}
        by_weight = sorted(symbols, key=lambda name: -abs(float((symbols[name] or {}).get("score", 0))))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpamEngineUnavailableError(f"{where} answers without score and required_score") from error
    return _opinion(HTTP_API, points, required, [str(name) for name in by_weight])


def _opinion(engine: str, points: float, required: float, symbols: list[str]) -> Opinion:
    if required <= 0:
        return Opinion(engine, None, f"no opinion: its own limit is {required:g}")
    names = said(", ".join(symbols[:_MAX_SYMBOLS]), _MAX_WORDS_LENGTH)
    score = min(max(points / required / 2, 0.0), 1.0)
    return Opinion(engine, round(score, 3), f"{points:g} of {required:g} points: {names}".removesuffix(": "))


def _read(connection: socket.socket, deadline: float) -> bytes:
    answer = b""
    while len(answer) < _MAX_ANSWER_LENGTH:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        connection.settimeout(left)
        chunk = connection.recv(16384)
        if not chunk:
            break
        answer += chunk
    return answer
