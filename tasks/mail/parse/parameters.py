"""MIME header fields with parameters: Content-Type and Content-Disposition (RFC 2045 section 5.1, RFC 2231)."""

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from tasks.mail.parse.charset import decode
from tasks.mail.parse.headers import decode_value

# Many senders forget a semicolon, so one of these names begins a parameter after a blank or a comma too.
_KNOWN = (
    r"(?:charset|boundary|name|filename|format|delsp|type|start|start-info|method|protocol|micalg|report-type|size"
    r"|access-type|creation-date|modification-date|x-[a-z-]{1,40})(?:\*\d{1,3})?\*?[ \t]*=(?!\?)"
)
_PARAMETER = re.compile(
    rf"(?:;|(?<=[\s,\"])(?={_KNOWN}))[ \t]*+([^\s=;\"]++)[ \t]*+=[ \t]*+"
    rf'("(?:[^"\\]++|\\.)*+(?:"|\\?$)|(?:[^;\s,]++|[\s,]++(?!{_KNOWN}))*+)',
    re.DOTALL | re.IGNORECASE,
)
_VALUE = re.compile(r"^[ \t]*+([^;]*+)")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_COMMENT = re.compile(r"\([^()]*\)")
_SECTION = re.compile(r"(.+?)\*(\d{1,4})(\*?)")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")

Parameters = dict[str, str]


def with_parameters(field: str) -> tuple[str, Parameters]:
    """The value of a field in lower case, and its parameters by lower-case name, still encoded as they came."""
    if len(field) < 128 and "boundary" not in field:
        return _cached(field)
    return _with_parameters(field)


def _with_parameters(field: str) -> tuple[str, Parameters]:
    match = _VALUE.match(field)
    value = match[1] if match else ""
    if "(" in value:
        value = _COMMENT.sub("", value)
    parameters: Parameters = {}
    for name, text in _PARAMETER.findall(field):
        parameters.setdefault(name.lower(), _unquoted(text))
    return _bare(value), parameters


def _bare(value: str) -> str:
    """The value without blanks around its slash, without quotes,
    and without the rest if a semicolon was forgotten."""
    value = value.strip(" \t").lower()
    if " " in value or "\t" in value:
        value, *others = value.split(maxsplit=3)
        while others and (value.endswith("/") or others[0].startswith("/")):
            value += others.pop(0)
    return value.strip(",:\"'")


# Cached values are shared, so callers must not change them.
_cached = lru_cache(maxsize=1024)(_with_parameters)


def media_type(value: str) -> str | None:
    """`value` if it has a type and a subtype, else None (RFC 2045 section 5.2 says which type to assume)."""
    return value if _MEDIA_TYPE.fullmatch(value) else None


def text_parameter(parameters: Parameters, name: str, charset: str | None = None) -> str | None:
    """A parameter as text. It may be written as in RFC 2231 (charset, continuations), as encoded words of RFC 2047,
    which many senders use here, or raw.

    Text without a charset of its own is read in the message's `charset`.
    """
    # If both forms are there, the form that can hold any character is better (RFC 6266 section 4.3).
    if f"{name}*" in parameters:
        return _extended(parameters[f"{name}*"], charset)
    if name in parameters:
        return decode_value(parameters[name], charset)
    if f"{name}*0" in parameters or f"{name}*0*" in parameters:
        return _continued(parameters, name, charset)
    return None


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text.rstrip(" \t")
    text = text[1:-1] if len(text) > 1 and text.endswith('"') else text[1:]
    # Single backslashes stay, because they may come from a Windows path.
    return _QUOTED_PAIR.sub(r"\1", text) if '\\"' in text or "\\\\" in text else text


def _extended(text: str, charset: str | None) -> str:
    label, quote, rest = text.partition("'")
    _, second, encoded = rest.partition("'")
    if not (quote and second):
        return decode(unquote_to_bytes(text.encode("latin-1")), charset)
    return decode(unquote_to_bytes(encoded.encode("latin-1")), label or charset)


def _continued(parameters: Parameters, name: str, charset: str | None) -> str:
    """`name*0`, `name*1*`, ... in their order (RFC 2231 section 3)."""
    sections: dict[int, tuple[str, bool]] = {}
    for key, text in parameters.items():
        match = _SECTION.fullmatch(key)
        if match and match[1] == name:
            sections.setdefault(int(match[2]), (text, bool(match[3])))
    ordered = [sections[number] for number in sorted(sections)]
    if not any(encoded for _, encoded in ordered):
        return decode_value("".join(text for text, _ in ordered), charset)
    first = ordered[0][0]
    label, quote, rest = first.partition("'")
    _, second, first_text = rest.partition("'")
    if quote and second and ordered[0][1]:
        ordered[0] = (first_text, True)
    else:
        label = ""
    data = b"".join(
        unquote_to_bytes(text.encode("latin-1")) if encoded else text.encode("latin-1") for text, encoded in ordered
    )
    return decode(data, label or charset)
