"""Checks the arguments of a task: in the caller before the
task is queued, and in the worker that takes the message."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

# The outbox keeps an idempotency key as key:…, 255 characters at most.
_MAX_IDENTIFIER_LENGTH = 251
_MAX_LIST_LENGTH = 100_000
_OWNERS = ("tenant_id", "user_id")


def check_arguments(name: str, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Compare the arguments with what `run`, the function of the task `name`, takes.

    Raises TypeError where arguments are missing, unknown, or too many. Raises ValueError
    where there is no tenant_id or user_id, and where an argument is of another type than
    the task takes, is a list of more than 100,000 items, holds half a character (a lone
    surrogate), or is an identifier that is too long or cannot be printed.
    Neither error repeats the value of an argument.
    """
    signature, hints = _signature(run), _hints(run)
    given = signature.bind_partial(*args, **kwargs).arguments
    for owner in _OWNERS:
        if owner in signature.parameters and not given.get(owner):
            raise ValueError(f"{name} needs a {owner}")
    signature.bind(*args, **kwargs)
    for parameter, value in given.items():
        is_optional = signature.parameters[parameter].default is not inspect.Parameter.empty
        if value is None and is_optional:
            continue
        if isinstance(value, list | tuple) and len(value) > _MAX_LIST_LENGTH:
            raise ValueError(f"{name}: {parameter} must not have more than {_MAX_LIST_LENGTH:,} items")
        if not _fits(value, hints.get(parameter, Any)):
            raise ValueError(f"{name}: {parameter} must not be of this type ({type(value).__name__})")
        for text in [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []:
            _check_text(f"{name}: {parameter}", text, is_identifier=parameter.endswith(("_id", "_ids", "_key")))


def check_identifier(name: str, value: object) -> None:
    """Raises ValueError where the value of the parameter `name` is no identifier: of another type than str, too long,
    or with characters that cannot be printed."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must not be of this type ({type(value).__name__})")
    _check_text(name, value, is_identifier=True)


def _check_text(where: str, text: Any, *, is_identifier: bool) -> None:
    if not isinstance(text, str):
        return
    if is_identifier and (len(text) > _MAX_IDENTIFIER_LENGTH or not text.isprintable()):
        raise ValueError(f"{where} must be a text of at most {_MAX_IDENTIFIER_LENGTH} printable characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half a character (a lone surrogate)") from None


def _fits(value: object, hint: Any) -> bool:
    """Whether the value is of this type, or of the type that JSON makes of it: a list is taken for a tuple."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin in (list, Sequence):
        return isinstance(value, list | tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint in (str, bool, NoneType):
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, hint) and not isinstance(value, bool)
    return True


@lru_cache
def _signature(run: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(run)


@lru_cache
def _hints(run: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(run)
