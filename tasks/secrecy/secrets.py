"""The one place that decides what may be said of a server's answer, and of whatever else may hold a secret.

Who takes a secret into use says so by `learn`: the password or token of an account, what its grant holds. The secrets
of the settings are known in every task. From then on to the end of the block of `secrets_kept` (a task, a command) no
EmailError holds any of them, nor does what `said` gives, what led to an error (`without_secrets`), or the log
(`SecretFilter`). What is known is bound to that block, so that one account's errors depend on no other's password.

Of an answer that holds a secret nothing is shown: who repeats it in one form may repeat it in another beside that.
Every other answer is shown as it is.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.secrecy.forms import Known

NOT_SHOWN = "its answer repeats a secret, so it is not shown"
# Of a longer text no more is looked at, nor shown.
_LOOKED_AT = 4096
_LOOKED_AT_OF_OURS = 64 * 1024
# A bound for who never leaves a block.
_MAX_KNOWN = 64

_NOTHING = Known()
_known: ContextVar[Known] = ContextVar("_known", default=_NOTHING)


@contextmanager
def secrets_kept(known: Known) -> Iterator[None]:
    """A block in which these secrets are known, and those that are learned in it."""
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def learn(*secrets: str | None, public: Iterable[str] = ()) -> None:
    """These secrets are in use from now on. `public` texts may be said although a secret is a part of them."""
    before = _known.get()
    new = tuple(secret for secret in secrets if secret and secret not in before.secrets)
    names = tuple(name for name in public if name not in before.public)
    if new or names:
        known = Known((*before.secrets, *new)[-_MAX_KNOWN:], (*before.public, *names)[-_MAX_KNOWN:])
        _known.set(known)


def said(words: str, longest: int | None = None) -> str:
    """A server's words, cut to `longest` characters, or that they are not shown because a secret is in them.

    To be given whole: cut off, a secret would not be known again.
    """
    looked_at = words[:_LOOKED_AT]
    return NOT_SHOWN if _known.get().are_told_by(looked_at) else looked_at[:longest]


def shown(text: str) -> str:
    """A text of ours, into which words of others may have got. Short secrets are words that we use as well."""
    looked_at = text[:_LOOKED_AT_OF_OURS]
    return NOT_SHOWN if _known.get().are_told_by(looked_at, short=False) else looked_at


def tells_secret(error: BaseException) -> bool:
    """Whether an error itself holds a secret, whatever led to it."""
    words = " ".join((str(error), str(error.args), *getattr(error, "__notes__", ())))
    return _known.get().are_told_by(words[:_LOOKED_AT_OF_OURS])


def without_secrets(error: BaseException) -> None:
    """Cut off what led to an error, from where that tells a secret: libraries keep in theirs what a server said."""
    left, seen = [error], {id(error)}
    while left:
        current = left.pop()
        for link in ("__cause__", "__context__"):
            before = getattr(current, link)
            if before is None or id(before) in seen:
                continue
            if tells_secret(before):
                setattr(current, link, None)
            else:
                seen.add(id(before))
                left.append(before)


class SecretFilter(logging.Filter):
    """Keeps secrets out of a log: those that are known where the line is written, and the ones given."""

    def __init__(self, always: Known) -> None:
        super().__init__()
        self._always = always

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line through, one that tells a secret without its words."""
        before = _known.get()
        learned = tuple(secret for secret in before.secrets if secret not in self._always.secrets)
        with secrets_kept(Known((*self._always.secrets, *learned), before.public) if learned else self._always):
            message = record.getMessage()
            if shown(message) != message:
                record.msg, record.args = f"{record.name}: a line that holds a secret is not shown", ()
            if error := record.exc_info and record.exc_info[1]:
                without_secrets(error)
                if tells_secret(error):
                    record.exc_info, record.exc_text = None, f"{type(error).__name__}: {NOT_SHOWN}"
        return True
