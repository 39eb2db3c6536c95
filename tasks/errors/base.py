"""The roots of the tree of errors, and what a person can do about an error."""

from collections.abc import Iterator
from enum import StrEnum, auto
from typing import ClassVar

from tasks.secrecy.secrets import shown


class Remedy(StrEnum):
    """What a person can do about an error."""

    STORE_PASSWORD = auto()
    STORE_SMTP_PASSWORD = auto()
    STORE_TOKEN = auto()
    STORE_SECRET_AGAIN = auto()
    TRY_LOGIN = auto()
    DECIDE_DELIVERY = auto()
    RETRY_TASK = auto()


class EmailError(Exception):
    """Something went wrong with the mail of an account."""

    code: ClassVar[str] = "error"
    remedy: ClassVar[Remedy | None] = None

    def __init_subclass__(cls) -> None:
        # The stored result of a task names the module of its error; callers of any release look there for the class.
        if cls.__module__.startswith("tasks.errors."):
            cls.__module__ = "tasks.errors"

    def __init__(self, detail: str = "") -> None:
        # `detail` is often a server's own text, which may hold any
        # characters, and is stored in the database and in Redis.
        detail = shown(detail.encode("utf-8", "replace").decode().replace("\0", "\ufffd"))
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        summary = " ".join((self.__doc__ or "").split())
        return f"{summary} ({self.detail})" if self.detail else summary


class TransientError(EmailError):
    """A passing condition; the task is retried."""

    code = "transient"
    # In how many seconds the server wants to be asked again, if it says so.
    retry_after: float | None = None


class PermanentError(EmailError):
    """Trying again changes nothing until a person does something."""

    code = "permanent"


def remedy_of(code: str | None) -> Remedy | None:
    """What a person can do about an error, found by its code; None for an unknown code."""
    return next((kind.remedy for kind in _kinds(EmailError) if kind.code == code), None)


def codes() -> frozenset[str]:
    """The codes of all errors."""
    return frozenset(kind.code for kind in _kinds(EmailError))


def _kinds(kind: type[EmailError]) -> Iterator[type[EmailError]]:
    """An error class and all its subclasses, each class before its own subclasses, which may share its code."""
    yield kind
    for derived in kind.__subclasses__():
        yield from _kinds(derived)
