"""A line of the log: its words, a tab, and its fields as `name=value`. Further lines (a traceback) are indented.

Invisible characters are written out, a tab among them: the words of a server can neither forge a line nor fields.
The names in addresses of mail, and the logins in URLs, are left out unless LOG_ADDRESSES is set.
"""

import json
import logging
import re
import socket
from collections.abc import Mapping
from functools import cached_property

from tasks.log_fields import FIELDS, Field, current, known
from tasks.runtime.log.tasks import elapsed, short_name
from tasks.runtime.redaction import redact_text
from tasks.secrecy.visible import VisibleFormatter, visible

# Between the words and the fields.
SEPARATOR = "\t"
_PLAIN = re.compile(r"[^\s\"=]+")
_MAX_LENGTH = 200


class LineFormatter(VisibleFormatter):
    """Formats records; `format_` is the format of the words, as of logging.Formatter."""

    def __init__(self, format_: str, *, shows_addresses: bool) -> None:
        super().__init__(format_)
        self._shows_addresses = shows_addresses

    def format(self, record: logging.LogRecord) -> str:
        """The record as lines."""
        text = super().format(record)
        if not self._shows_addresses:
            text = redact_text(text, but=self._node_names)
        fields: Mapping[Field, str] = getattr(record, FIELDS, {})
        if not fields:
            return text
        words, newline, rest = text.partition("\n")
        shown = " ".join(f"{field}={_quoted(value)}" for field, value in fields.items())
        return f"{words}{SEPARATOR}{shown}{newline}{rest}"

    @cached_property
    def _node_names(self) -> str:
        """What follows the @ in the names of this host's workers, such as worker@host."""
        return socket.gethostname()


def describe(record: logging.LogRecord) -> bool:
    """A filter that lets every record through, and gives the record its fields."""
    fields = {**current(), **known(record.__dict__)}
    told = getattr(record, "data", None)  # by Celery: about one task
    if isinstance(told, Mapping) and {"id", "name"} <= told.keys():
        fields = {Field.TASK: short_name(told["name"]), Field.TASK_ID: told["id"], **fields}
        if "runtime" in told or "exc" in told:
            fields[Field.DURATION] = round(told.get("runtime", elapsed()), 3)
    record.__dict__[FIELDS] = {field: visible(str(fields[field])[:_MAX_LENGTH]) for field in Field if field in fields}
    return True


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
