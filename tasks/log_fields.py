"""What a line of the log says beside its words: which task wrote the line, for whom, and what the line is about.

The fields stand at the end of each line as `name=value`, and in systemd's journal as fields of their own
(tasks/runtime/log/). Their values are identifiers and figures: no words of servers or mail, and no addresses.

A task sets the fields of its lines when it begins, and code that goes into detail adds its own with `logged_with`,
such as the folder. A single line gets a field with `extra={"uid": 5}`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import MappingProxyType


class Field(StrEnum):
    """All fields, in the order in which they are shown."""

    TASK = "task"
    TASK_ID = "task_id"
    TENANT = "tenant"
    ACCOUNT = "account"
    FOLDER = "folder"
    UID = "uid"
    OUTBOX = "outbox"
    DURATION = "duration"
    LOST = "lost"

    @property
    def in_journal(self) -> str:
        """The name of the field in systemd's journal."""
        return f"METABUILDER_{self.upper()}"


Fields = Mapping[Field, object]
# The attribute of a logging.LogRecord that holds the fields of its line, as texts.
FIELDS = "metabuilder_fields"

_NONE: Fields = MappingProxyType({})
_fields: ContextVar[Fields] = ContextVar("_fields", default=_NONE)


def current() -> Fields:
    """The fields of a line that is written here."""
    return _fields.get()


def use(fields: Fields) -> None:
    """Have the lines that are written from now on have these fields; for threads, which begin without any."""
    _fields.set(fields)


@contextmanager
def logged_with(**fields: object) -> Iterator[None]:
    """A block whose lines have these fields too; a field that is None is left out."""
    token = _fields.set({**_fields.get(), **known(fields)})
    try:
        yield
    finally:
        _fields.reset(token)


def known(values: Mapping[str, object]) -> dict[Field, object]:
    """Those of the values that are fields and not None."""
    return {field: value for field in Field if (value := values.get(field)) is not None}
