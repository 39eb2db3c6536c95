"""Header fields as they go over the wire: folded, encoded, and never more than one field from one value.

Written here and not by the standard library's email package, which folds differently, and not always soundly, from
one Python release to the next (docs/decisions/0008). RFC 5322 section 2.2.3, RFC 2047, RFC 2231.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from tasks.mail.message import Address
from tasks.mail.parse.charset import storable
from tasks.mail.parse.headers import one_line

# A line with an encoded word has at most 76 characters (RFC 2047 section 2), the field's name among them; any other
# should stay within 78 and must stay within 998 (RFC 5322 section 2.1.1).
_LINE = 76
_MAX_WORD_LENGTH = 900
_ENCODED_WORD = _LINE - len("Subject: ")

_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# Characters that need no encoding in a Q-encoded word, in any header (RFC 2047 section 5).
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
# A parameter longer than this is continued (RFC 2231 section 3).
_PARAMETER = 60
_PERCENT_PIECES = re.compile(r"(?:%[0-9A-F]{2}|[^%]){1,50}")


def unstructured(name: str, value: str) -> bytes:
    """A field of free text, such as Subject."""
    text = one_line(storable(value))
    if text.isascii() and "=?" not in text:
        words = re.findall(r" *[^ ]+", text)
        if all(len(word) < _MAX_WORD_LENGTH for word in words):
            return _folded(f"{name}:", [word if word.startswith(" ") else f" {word}" for word in words])
    return _folded(f"{name}:", [f" {word}" for word in _encoded_words(text)])


def address_list(name: str, addresses: Sequence[Address]) -> bytes:
    """A field of mailboxes, whose addresses must have been checked."""
    pieces: list[str] = []
    for number, (display_name, address) in enumerate(addresses, start=1):
        phrase = _phrase(one_line(storable(display_name)))
        mailbox = [*phrase, f"<{address}>"] if phrase else [address]
        pieces += [f" {piece}" for piece in mailbox]
        if number < len(addresses):
            pieces[-1] += ","
    return _folded(f"{name}:", pieces)


def with_parameter(value: str, parameter: str, text: str) -> str:
    """A field's value with another parameter, on a line of its own."""
    return "".join([value, *(f";\r\n {piece}" for piece in _parameter(parameter, one_line(storable(text))))])


def _folded(head: str, pieces: Sequence[str]) -> bytes:
    """The field, folded. Each piece begins with its space, and a line may end before each piece."""
    lines, length = [head], len(head)
    for piece in pieces:
        if length + len(piece) > _LINE and length > len(head):
            lines.append("\r\n")
            length = 0
        lines.append(piece)
        length += len(piece)
    return ("".join(lines) + "\r\n").encode()


def _phrase(name: str) -> list[str]:
    if not name:
        return []
    if name.isascii() and "=?" not in name and len(name) < _LINE:
        if _ATOMS.fullmatch(name):
            return [name]
        return ['"' + re.sub(r'(["\\])', r"\\\1", name) + '"']
    return list(_encoded_words(name))


def _encoded_words(text: str) -> Iterator[str]:
    """The text as encoded words (RFC 2047): each is short enough for any line, and no character is cut in two."""
    high = sum(not char.isascii() for char in text)
    encode = _b_word if 3 * high > len(text) else _q_word
    word = ""
    for char in text:
        if len(encode(word + char)) > _ENCODED_WORD:
            yield encode(word)
            word = ""
        word += char
    if word:
        yield encode(word)


def _b_word(text: str) -> str:
    return f"=?utf-8?b?{b2a_base64(text.encode(), newline=False).decode()}?="


def _q_word(text: str) -> str:
    coded = ("_" if byte == 0x20 else chr(byte) if byte in _Q_SAFE else f"={byte:02X}" for byte in text.encode())
    return f"=?utf-8?q?{''.join(coded)}?="


def _parameter(name: str, text: str) -> list[str]:
    if text.isascii() and len(text) < _PARAMETER:
        quoted = re.sub(r'(["\\])', r"\\\1", text)
        return [f'{name}="{quoted}"']
    coded = f"utf-8''{quote(text, safe='')}"
    if len(coded) < _PARAMETER:
        return [f"{name}*={coded}"]
    return [f"{name}*{number}*={piece}" for number, piece in enumerate(_PERCENT_PIECES.findall(coded))]
