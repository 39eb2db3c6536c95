"""Redaction: what may be shown of a task's arguments and errors in Flower, in logs, and in dead letters.

Identifiers, numbers and switches are shown. Any other argument may be somebody's mail, so only its size is shown.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

_WORD = re.compile(r"[a-z_]{1,40}")
# Also matches the login in a URL, which ends with an @ too. Begins where a word begins: a long text is read once.
_BEFORE_AN_AT = re.compile(r"(?<![^\s<>(),;@])[^\s<>(),;@]+@(?=(?P<host>[\w.-]*\w)|\[)")

# The end of a login in a URL without its password, as libraries show it.
_MASKED = ":**@"


def redact_arguments(
    run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a task whose function is `run`, as they may be shown."""
    # Arguments beyond the names that the function has are no known identifiers, so they are not shown.
    shown = tuple(_redact(name, value) for name, value in zip(chain(_names(run), repeat("")), args, strict=False))
    return shown, {name: _redact(name, value) for name, value in kwargs.items()}


def redact_values(value: Any) -> Any:
    """A result of a task as it may be shown: of a mapping, the values as those of arguments, and short words."""
    if isinstance(value, Mapping):
        return {str(name): inner if _is_word(inner) else _redact(str(name), inner) for name, inner in value.items()}
    return value if _is_word(value) else _redact("", value)


def _is_word(value: object) -> bool:
    """Whether a text is a word that the tasks themselves say, such as a status: nobody's mail is so plain."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def redact_text(text: str, but: str = "") -> str:
    """A text without the local parts of mail addresses and the logins in URLs, except those at the host `but`."""

    def redacted(found: re.Match[str]) -> str:
        is_public = (but and found["host"] == but) or found[0].endswith(_MASKED)
        return found[0] if is_public else "…@"

    return _BEFORE_AN_AT.sub(redacted, text)


@lru_cache
def _names(run: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(run).parameters)


def _redact(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float) or name.endswith(("_id", "_ids")):
        return value
    if isinstance(value, str | bytes):
        return f"<{len(value)} characters>"
    if isinstance(value, Mapping | Sequence | set | frozenset):
        return f"<{len(value)} items>"
    return f"<{type(value).__name__}>"
