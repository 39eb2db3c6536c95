"""Decodes field bodies: encoded words and 8-bit characters (RFC 2047, RFC 6532).

Field bodies travel as latin-1 text, one character a byte, until `decode_value` makes real text of them: an
address or a parameter must be taken apart before its encoded words are decoded, or a comma in a name would
split it.
"""

import re
from binascii import Error as BinasciiError
from binascii import a2b_base64, a2b_qp

from tasks.mail.parse.charset import codec_for, decode, storable

# Some senders leave "?" unencoded in a Q word. Their number is bounded, so that the search stays linear.
_ENCODED_WORD = re.compile(r"=\?([^?\s]{0,60})\?([BbQq])\?([^?]*(?:\?(?!=)[^?]*){0,3})\?=")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")


def decode_value(value: str, charset: str | None = None) -> str:
    """A field body as text, with encoded words decoded.

    Raw characters beyond ASCII are read in the message's `charset`.
    """
    value = decode_raw(value, charset)
    if "=?" in value:
        value = decode_words(value, charset)
    return storable(value)


def has_raw(value: str) -> bool:
    """Whether a field body breaks RFC 5322 by holding other characters than ASCII: 8-bit, or ISO-2022-JP."""
    return not value.isascii() or "\x1b" in value


def decode_raw(value: str, charset: str | None) -> str:
    """A field body with raw characters as text; by RFC 6532 they are UTF-8."""
    return decode(value.encode("latin-1"), charset, guess=charset is None) if has_raw(value) else value


def decode_words(text: str, charset: str | None = None) -> str:
    """Decode encoded words (RFC 2047 section 6.2), also inside quoted
    strings and next to other text, where many senders put them.

    Neighbouring words of one charset are decoded together, because some senders cut a character in two. A word of an
    unknown charset is read in the message's `charset`.
    """
    out: list[str] = []
    run: list[bytes] = []
    run_label = ""
    position = 0
    for match in _ENCODED_WORD.finditer(text):
        gap = text[position : match.start()]
        label = match[1].partition("*")[0].lower()
        if run and (label != run_label or not _is_space(gap)):
            out.append(_run_text(run, run_label, charset))
            run.clear()
            out.append("" if _is_space(gap) else gap)
        elif not run:
            out.append(gap)
        run_label = label
        run.append(_word_bytes(match[2], match[3]))
        position = match.end()
    if run:
        out.append(_run_text(run, run_label, charset))
    out.append(text[position:])
    return "".join(out)


def one_line(text: str) -> str:
    """`text` without control characters, which an encoded word can smuggle in, and without outer space."""
    if not text.isprintable():
        text = _CONTROLS.sub(" ", text)
    return text.strip()


def base64_bytes(data: bytes | memoryview) -> bytes:
    """The bytes of base64 (RFC 2045 section 6.8), as far as it can be decoded."""
    try:
        return a2b_base64(data)
    except BinasciiError:
        symbols = _NOT_BASE64.sub(b"", data)
        # A single symbol at the end is not enough for a byte.
        symbols = symbols[: len(symbols) - (len(symbols) % 4 == 1)]
        return a2b_base64(symbols + b"=" * (-len(symbols) % 4))


def _is_space(gap: str) -> bool:
    return not gap or gap.isspace()


def _run_text(run: list[bytes], label: str, charset: str | None) -> str:
    if charset is None or codec_for(label) not in (None, "ascii"):
        charset = label
    # A control character here is an attempt to add a header field, or a broken sender.
    return _CONTROLS.sub(" ", decode(b"".join(run), charset, guess=False))


def _word_bytes(encoding: str, encoded: str) -> bytes:
    data = encoded.encode("utf-8", "replace")
    return a2b_qp(data, header=True) if encoding in "qQ" else base64_bytes(data)
