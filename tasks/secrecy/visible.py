"""Writes out control characters in text of others, on a terminal and in a log, so that they have no effect.

Words of servers, mail and callers could otherwise move the cursor, set the title of a window, make the terminal send
input in the operator's name, turn the direction of a line, or forge a line of our own.
"""

import json
import logging
import re
import sys
import traceback
from types import TracebackType

from tasks.secrecy.forms import Known
from tasks.secrecy.secrets import SecretFilter

# By category of Unicode: Cc (C0, DEL, C1), Cf (bidirectional, zero width, tags), Cs (surrogates), Zl and Zp (line
# separators); and other invisible characters (Default_Ignorable_Code_Point, PropList.txt), except variation
# selectors, which emoji need.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff"
    "\U000e01f0-\U000e0fff"
)
_HIDDEN = re.compile(f"[{_UNSEEN}]")
_HIDDEN_IN_LINES = re.compile(f"(?!\n)[{_UNSEEN}]")
# The indentation of all lines of a text but the first, so that none of them looks like a new record.
CONTINUED = "    "


class VisibleFormatter(logging.Formatter):
    """Formats records so that only the first line of each begins as the format says."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as lines."""
        return visible_lines(super().format(record))


def log_visibly() -> None:
    """Have warnings, logged warnings and uncaught errors of this process written with visible characters."""
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter())
    handler.addFilter(SecretFilter(Known()))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = _write_error


def _write_error(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, where))
    print(visible_lines(text.rstrip("\n")), file=sys.stderr)  # noqa: T201 - as Python itself does


def visible(text: str) -> str:
    r"""The text as one line, with invisible characters written as in Python: \x1b, \n, \u202e."""
    return text if text.isascii() and text.isprintable() else _HIDDEN.sub(_shown, text)


def visible_lines(text: str) -> str:
    """The text with its line ends (LF), and other invisible characters written as in Python.

    Later lines are indented.
    """
    return _HIDDEN_IN_LINES.sub(_shown, text).replace("\n", f"\n{CONTINUED}")


def visible_json(text: str) -> str:
    """JSON in which all invisible characters are escaped; only between its values there may be line ends."""
    return _HIDDEN_IN_LINES.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _shown(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
