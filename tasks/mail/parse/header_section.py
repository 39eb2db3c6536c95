"""The header section of a message or of a part: where it begins and ends, and its fields (RFC 5322 section 2.2).

Saved, forwarded and gatewayed mail has lines there that are no fields: notes, lines of mailbox files, folded lines
that lost their fold, lines of spaces, and at the end sometimes no empty line. One rule holds for all: such lines are
skipped if the header goes on after them, that is, if a known field follows; otherwise the body has begun. Nearly all
headers have no such lines, and are read without looking at each line.
"""

import re

# From LF to LF, so that a run of CRs is looked at once only.
_END_OF_HEADER = re.compile(rb"\n\r*\n")
_FOLD = re.compile(r"\n[ \t]+")
_FIELD = re.compile(r"^([!-9;-~]+)[ \t]*:[ \t]*(.*)$", re.MULTILINE)
_LINE_OF_SPACES = re.compile(r"\n[ \t]+\n")

# The lines of a damaged header; each pattern is tried at the beginning of a line.
_EMPTY = re.compile(rb"\r*\n")
_SPACES = re.compile(rb"[ \t]+\r*(?:\n|\Z)")
_FOLDED = re.compile(rb"[ \t]")
_FIELD_LINE = re.compile(rb"([!-9;-~]+)[ \t]*:")
_NAMELESS = re.compile(rb":[^\n]*+(?:\n[ \t][^\n]*+)*+(?:\n|\Z)")
_FIRST_FIELD_LINE = re.compile(rb"(?:\xef\xbb\xbf)?[ \t]*([!-9;-~]+[ \t]*:)")
# The line before each message in a mailbox file ("mbox"), which belongs to no message.
_MBOX_FROM = re.compile(rb">?From (?![ \t]*:)[^\r\n]{0,500}\d\d:\d\d[^\r\n]{0,500}\r*(?:\n|\Z)")

# Fields that occur once in a message. A second one belongs to a message that is quoted in the text.
_ONCE = frozenset(
    {b"from", b"sender", b"reply-to", b"to", b"cc", b"subject", b"date", b"message-id", b"mime-version"}
)


# Names of header fields, without words that people write at the beginning of a line ("Note:", "Tel:", "E-mail:").
_NAMES_OF_MESSAGE = (
    "from|sender|reply-to|to|cc|bcc|subject|date|message-id|in-reply-to|references|keywords|comments|received"
    "|return-path|return-receipt-to|delivered-to|envelope-to|apparently-to|errors-to|mail-followup-to|followup-to"
    "|organi[sz]ation|precedence|priority|importance|sensitivity|encoding|lines|status|newsgroups|path|xref|approved"
    "|user-agent|mailing-list|supersedes|domainkey-signature|autocrypt|face"
    "|(?:x|list|content|mime|resent|dkim|arc|received|authentication|auto|disposition|original|delivery|thread"
    "|feedback|old)-[a-z0-9-]+"
)
# Fields that programs write, and that people who quote a message in a text do not copy.
_NAMES_BY_MACHINES = "message-id|received|return-path|delivered-to|mime-version|content-type|dkim-signature"


def _line_of(names: str) -> re.Pattern[bytes]:
    pattern = rf"^(?:\xef\xbb\xbf)?[ \t]*(?:{names})[ \t]*:"
    return re.compile(pattern.encode("ascii"), re.IGNORECASE | re.MULTILINE)


_OF_MESSAGE = _line_of(_NAMES_OF_MESSAGE)
_OF_PART = _line_of("content-[a-z-]+")
_BY_MACHINES = _line_of(_NAMES_BY_MACHINES)
_CR_BEFORE_FIELD = re.compile(rf"(?<!\r)\r++(?=(?:{_NAMES_OF_MESSAGE})[ \t]*:)", re.IGNORECASE)

Field = tuple[str, str]


def split_headers(data: bytes, start: int, end: int, *, of_part: bool = False) -> tuple[list[Field], int]:
    """The fields, unfolded but not decoded, of the entity at `data[start:end]`, and where its body starts.

    `of_part`: the entity is a part of a multipart. A part may have no header, so text at its beginning is text.
    """
    if data.startswith((b"\n", b"\r\n"), start, end):
        if of_part:
            return [], data.index(b"\n", start) + 1
        return _Damaged(data, start, end, of_part).read()
    if match := _END_OF_HEADER.search(data, start, end):
        stop, body = match.span()
    else:
        stop = body = end
    fields = _fields(data[start:stop])
    if fields is None:
        return _Damaged(data, start, end, of_part).read()
    return fields, body


def _fields(block: bytes) -> list[Field] | None:
    """The fields of a header block, or None if one of its lines is no field."""
    text = block.decode("latin-1").rstrip(" \t\r\n")
    if "\r" in text:
        text = text.replace("\r\n", "\n")
        if "\r" in text:
            text = _CR_BEFORE_FIELD.sub("\n", text).replace("\r", " ")
    has_trailing_spaces = " \n" in text or "\t\n" in text
    if has_trailing_spaces and _LINE_OF_SPACES.search(text):
        return None
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    if has_trailing_spaces:
        text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    fields = _FIELD.findall(text)
    if len(fields) != text.count("\n") + 1 and text:
        return None
    return fields


class _Damaged:
    """One pass over the lines of a header some of which are no fields."""

    def __init__(self, data: bytes, start: int, end: int, of_part: bool) -> None:
        self.data = data
        self.position = start
        self.end = end
        self.of_part = of_part
        self.plausible = _OF_PART if of_part else _OF_MESSAGE
        self.good: list[bytes] = []
        self.seen: set[bytes] = set()
        self.has_end: bool | None = None

    def read(self) -> tuple[list[Field], int]:
        """The fields, and where the body starts."""
        if not self._find_first_field():
            return [], self.position
        while self.position < self.end:
            if match := self._match(_EMPTY):
                self.position = match.end()
                break
            if match := self._match(_FIELD_LINE):
                self.seen.add(match[1].lower())
                self._take_line()
            elif self._match(_FOLDED) and not self._match(_SPACES):
                self._take_line()
            elif match := self._match(_NAMELESS):
                self.position = match.end()
            elif not self._goes_on():
                break
        return _fields(b"".join(self.good)) or [], self.position

    def _find_first_field(self) -> bool:
        """Go to the first field, past lines that mailbox files, gateways and editors put before it.

        False if there is no field.
        """
        if not self.of_part and (match := self._match(_MBOX_FROM)):
            self.position = match.end()
        position, past_empty = self.position, False
        while position < self.end:
            if field := _FIRST_FIELD_LINE.match(self.data, position, self.end):
                if self._is_header(position, field.start(1), past_empty):
                    self.position = field.start(1)
                    return True
                break
            if empty := _EMPTY.match(self.data, position, self.end):
                past_empty = True
                position = empty.end()
            elif past_empty:
                break
            else:
                position = self._line_end(position)
        if empty := self._match(_EMPTY):
            self.position = empty.end()
        return False

    def _is_header(self, line: int, field: int, past_empty: bool) -> bool:
        """Whether the field at `line` begins a header, and not a paragraph of a text without a header."""
        if field == self.position:
            return True
        if past_empty and self.of_part:
            return False
        end = _END_OF_HEADER.search(self.data, line, self.end)
        names = _BY_MACHINES if past_empty else self.plausible
        return names.search(self.data, line, end.start() if end else self.end) is not None

    def _goes_on(self) -> bool:
        """Skip lines that are no fields where the header goes on behind them; else stop where the body starts."""
        spaces = self._match(_SPACES)
        position = self._line_end(self.position)
        while position < self.end and not self._ends_gap(position, after_spaces=bool(spaces)):
            position = self._line_end(position)
        field = _FIELD_LINE.match(self.data, position, self.end)
        if (
            field
            and field[1].lower() not in self.seen & _ONCE
            and self.plausible.match(self.data, position, self.end)
        ):
            self.position = position
            return True
        if not spaces:
            return False
        if _EMPTY.match(self.data, position, self.end) or (
            _FOLDED.match(self.data, position, self.end) and self._has_end()
        ):
            self.position = position
            return True
        # The line of spaces stands for the empty line after the header.
        self.position = spaces.end()
        return False

    def _ends_gap(self, position: int, after_spaces: bool) -> bool:
        """Whether a gap in the header (lines of spaces, or other lines with their folds) ends before this line."""
        is_spaces = _SPACES.match(self.data, position, self.end) is not None
        if after_spaces:
            return not is_spaces
        return is_spaces or any(pattern.match(self.data, position, self.end) for pattern in (_EMPTY, _FIELD_LINE))

    def _has_end(self) -> bool:
        """Whether an empty line follows at all.

        Looked for only once, because the whole header lies before that line.
        """
        if self.has_end is None:
            self.has_end = _END_OF_HEADER.search(self.data, self.position, self.end) is not None
        return self.has_end

    def _match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        return pattern.match(self.data, self.position, self.end)

    def _take_line(self) -> None:
        stop = self._line_end(self.position)
        self.good.append(self.data[self.position : stop])
        self.position = stop

    def _line_end(self, position: int) -> int:
        return self.data.find(b"\n", position, self.end) + 1 or self.end
