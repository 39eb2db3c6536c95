"""The forms in which a server may repeat a secret: as programs escape, encode, quote and wrap what they show."""

import html
import json
import quopri
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from urllib.parse import quote, quote_plus


def _wrapped(text: str, length: int, end: str) -> str:
    return end.join(text[start : start + length] for start in range(0, len(text), length))


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _plain(text: str) -> str:
    """What AUTH PLAIN sends (RFC 4616)."""
    return _base64(f"\0ada\0{text}")


def _octets(text: str, form: str) -> str:
    return "".join(form.format(octet) for octet in text.encode())


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "capitals": str.upper,
    "small letters": str.lower,
    "URL": _quoted,
    "URL, small hex": lambda text: _octets(text, "%{:02x}"),
    "URL, every octet": lambda text: _octets(text, "%{:02X}"),
    "form": quote_plus,
    "URL twice": lambda text: _quoted(_quoted(text)),
    "in a URL": lambda text: f"redis://:{_quoted(text)}@cache.example:6379/0",
    "base64": _base64,
    "base64 without padding": lambda text: _base64(text).rstrip("="),
    "base64 from the second octet": lambda text: _base64(f":{text}:"),
    "base64 from the third octet": lambda text: _base64(f"::{text}::"),
    "base64, URL-safe": lambda text: urlsafe_b64encode(f"\0ada\0{text}".encode()).decode(),
    "base64 in lines": lambda text: _wrapped(_plain(text), 10, "\r\n "),
    "base64 in a URL": lambda text: _quoted(_base64(text)),
    "base64 twice": lambda text: _base64(_base64(text)),
    "base64 in JSON": lambda text: json.dumps(_plain(text)).replace("/", "\\/"),
    "SASL PLAIN": _plain,
    "HTTP Basic": lambda text: _base64(f"client:{quote_plus(text)}"),
    "OAUTHBEARER": lambda text: _base64(f"n,a=ada,\1host=h\1port=1\1auth=Bearer {text}\1\1"),
    "quoted-printable": lambda text: quopri.encodestring(text.encode()).decode(),
    "quoted-printable, every octet": lambda text: _octets(text, "={:02X}"),
    "quoted-printable in lines": lambda text: _wrapped(text.replace("=", "=3D"), 3, "=\r\n"),
    "encoded word": lambda text: f"=?utf-8?q?{quopri.encodestring(text.encode(), header=True).decode()}?=",
    "encoded word in base64": lambda text: f"=?utf-8?b?{_base64(text)}?=",
    "JSON": json.dumps,
    "JSON with slashes escaped": lambda text: json.dumps(text).replace("/", "\\/"),
    "JSON, every character": lambda text: "".join(f"\\u{ord(c):04x}" for c in text if ord(c) < 0x10000),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "HTML": html.escape,
    "HTML, decimal": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "HTML, hex": lambda text: "".join(f"&#x{ord(c):X};" for c in text),
    "Python": repr,
    "Python, bytes": lambda text: repr([text.encode()]),
    "octal": lambda text: _octets(text, "\\{:03o}"),
    "hex": lambda text: text.encode().hex(),
    "hex with colons": lambda text: text.encode().hex(":").upper(),
    "IMAP": lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"',
    "lines": lambda text: _wrapped(text, 3, "\r\n"),
    "lines of a reply": lambda text: _wrapped(text, 3, "\r\n535-5.7.8 "),
    "read as Latin-1": lambda text: text.encode().decode("latin-1"),
}
