"""Conditions on stored messages that a person writes: FIELD OPERATOR VALUE, as in `subject ~ Ã`.

Conditions are parsed here and never handed to PostgreSQL as SQL: fields and operators come from the tables below, and
the value is always a parameter.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Text, cast, exists, func, literal, not_, select

from tasks.errors import PermanentError
from tasks.storage.models import EmailFolder, EmailMessage

Test = Callable[[Any, Any], ColumnElement[bool]]

_CONDITION = re.compile(r"\s*(header\.[!-9;-~]+?|\w+)\s*(!~|!=|<=|>=|=|~|<|>)\s*(.*?)\s*", re.DOTALL)
_NONE = "none"
_LARGEST = 2**63 - 1

_COMPARISONS: dict[str, Test] = {
    "=": lambda column, value: column == value,
    "!=": lambda column, value: column.is_distinct_from(value),
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}
# Case does not matter. A missing text contains nothing.
_TEXT_TESTS: dict[str, Test] = {
    "=": _COMPARISONS["="],
    "!=": _COMPARISONS["!="],
    "~": lambda column, value: _contains(column, value),
    "!~": lambda column, value: not_(_contains(column, value)),
}
_TEXTS = {
    "subject": EmailMessage.subject,
    "text": EmailMessage.text_body,
    "html": EmailMessage.html_body,
    "message_id": EmailMessage.message_id,
}
# Columns with addresses, which are compared as JSON text, so names and addresses are searched alike.
_ADDRESSES = {
    "from": EmailMessage.from_addresses,
    "to": EmailMessage.to_addresses,
    "cc": EmailMessage.cc_addresses,
    "bcc": EmailMessage.bcc_addresses,
    "reply_to": EmailMessage.reply_to_addresses,
}
_NUMBERS = {
    "size": EmailMessage.size,
    "attachments": EmailMessage.attachment_count,
    "version": EmailMessage.parser_version,
}
_TIMES = {"received": EmailMessage.received_at, "sent": EmailMessage.sent_at, "filed": EmailMessage.filed_at}

FIELDS = (*_TEXTS, *_ADDRESSES, "folder", "header.NAME", *_NUMBERS, *_TIMES)


class ConditionInvalidError(PermanentError):
    """This is no condition: it is FIELD OPERATOR VALUE, as in "subject ~ invoice"; "none" stands for nothing."""

    code = "condition_invalid"


def read_condition(words: str) -> ColumnElement[bool]:
    """The condition on an EmailMessage in SQLAlchemy's form. Raises ConditionInvalidError that says what is wrong."""
    match = _CONDITION.fullmatch(words)
    if not match or not match[3] or not _is_storable(words):
        raise ConditionInvalidError(repr(words))
    field, operator, value = match[1], match[2], match[3]
    name = field.lower()
    if name in _TEXTS:
        return _text(field, _TEXTS[name], operator, value)
    if name in _ADDRESSES:
        # An empty list counts as no value.
        written = func.nullif(cast(_ADDRESSES[name], Text), "[]")
        return _text(field, written, operator, value)
    if name == "folder":
        return _in_folder(operator, value)
    if name.startswith("header."):
        return _header(field, operator, value)
    if name in _NUMBERS:
        return _number(field, _NUMBERS[name], operator, value)
    if name in _TIMES:
        return _time(field, _TIMES[name], operator, value)
    raise ConditionInvalidError(f"there is no field {field!r}; there are {', '.join(FIELDS)}")


def _is_storable(words: str) -> bool:
    """Whether PostgreSQL can store these words as text."""
    return "\0" not in words and not any("\ud800" <= character <= "\udfff" for character in words)


def _text(field: str, column: Any, operator: str, value: str) -> ColumnElement[bool]:
    test = _test(field, _TEXT_TESTS, operator)
    if value == _NONE and operator in ("=", "!="):
        return test(func.nullif(column, ""), None)
    return test(func.coalesce(column, ""), value)


def _in_folder(operator: str, value: str) -> ColumnElement[bool]:
    test = _test("folder", _TEXT_TESTS, operator)
    is_its = (
        EmailFolder.tenant_id == EmailMessage.tenant_id,
        EmailFolder.id == EmailMessage.folder_id,
    )
    return exists(select(EmailFolder.id).where(*is_its, test(EmailFolder.name, value)))


def _header(field: str, operator: str, value: str) -> ColumnElement[bool]:
    """A condition on the values, as JSON, of all header fields of this name in any case."""
    name = field.partition(".")[2].lower()
    entries = func.jsonb_each_text(EmailMessage.headers).table_valued("key", "value")
    found = select(func.string_agg(entries.c.value, "\n")).where(func.lower(entries.c.key) == name).scalar_subquery()
    if operator in ("=", "!=") and value != _NONE:
        raise ConditionInvalidError(f"{field} {operator} is for none alone; use ~ or !~")
    return _text(field, found, operator, value)


def _number(field: str, column: Any, operator: str, value: str) -> ColumnElement[bool]:
    test = _test(field, _COMPARISONS, operator)
    if not re.fullmatch(r"[0-9]{1,19}", value) or int(value) > _LARGEST:
        raise ConditionInvalidError(f"{field} is compared with a number, not with {value!r}")
    return test(cast(column, BigInteger), literal(int(value), BigInteger))


def _time(field: str, column: Any, operator: str, value: str) -> ColumnElement[bool]:
    test = _test(field, _COMPARISONS, operator)
    if value == _NONE and operator in ("=", "!="):
        return test(column, None)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ConditionInvalidError(
            f"{field} is compared with a date like 2026-03-02 or 2026-03-02T10:00, not with {value!r}"
        ) from None
    return test(column, moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _test(field: str, tests: dict[str, Test], operator: str) -> Test:
    if operator not in tests:
        raise ConditionInvalidError(f"{field} {operator}: there are {' '.join(tests)}")
    return tests[operator]


def _contains(column: Any, value: str) -> ColumnElement[bool]:
    return func.strpos(func.lower(column), value.lower()) > 0
