"""Decides what may be shown of a server's answer, and of any other text that may hold a secret.

Code that begins to use a secret (the password or token of an account, the secrets of its grant) calls `learn`. The
secrets of the settings are known in every task. From then on, until the block of `secrets_kept` ends (a task, a
command), no EmailError holds a known secret, nor does the result of `said`, a cause of an error (`without_secrets`),
or the log (`SecretFilter`). Known secrets are bound to the block, so that one account's errors do not depend on
another account's password.

Nothing is shown of an answer that holds a secret: a server that repeats a secret in one form may repeat it in another
form as well. Every other answer is shown unchanged.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.log_fields import FIELDS
from tasks.secrecy.forms import Known

NOT_SHOWN = "its answer repeats a secret, so it is not shown"
# How much of a text is searched. No more than this is shown.
_LOOKED_AT = 4096
_LOOKED_AT_OF_OURS = 64 * 1024
# How many secrets are known at most, for code that never leaves its block.
_MAX_KNOWN = 64

_NOTHING = Known()
_known: ContextVar[Known] = ContextVar("_known", default=_NOTHING)


@contextmanager
def secrets_kept(known: Known) -> Iterator[None]:
    """A block in which these secrets are known, as well as the secrets that are learned in it."""
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def learn(*secrets: str | None, public: Iterable[str] = ()) -> None:
    """Add secrets that are in use from now on. `public` texts may be shown although a secret is a part of them."""
    before = _known.get()
    new = tuple(secret for secret in secrets if secret and secret not in before.secrets)
    names = tuple(name for name in public if name not in before.public)
    if new or names:
        known = Known((*before.secrets, *new)[-_MAX_KNOWN:], (*before.public, *names)[-_MAX_KNOWN:])
        _known.set(known)


def said(words: str, longest: int | None = None) -> str:
    """A server's words, cut to `longest` characters; or, if they hold a secret, a note that they are not shown.

    `words` must be the whole text: a secret that was cut off would not be recognised.
    """
    looked_at = words[:_LOOKED_AT]
    return NOT_SHOWN if _known.get().are_told_by(looked_at) else looked_at[:longest]


def shown(text: str) -> str:
    """A text of our own that may repeat words of others.

    Short secrets are not looked for, as our texts use such words too.
    """
    looked_at = text[:_LOOKED_AT_OF_OURS]
    return NOT_SHOWN if _known.get().are_told_by(looked_at, short=False) else looked_at


def tells_secret(error: BaseException) -> bool:
    """Whether the text of an error holds a secret, apart from its causes.

    A text that is too long to be searched counts as one that does: whoever shows an error shows all of its text.
    """
    words = " ".join((str(error), str(error.args), *getattr(error, "__notes__", ())))
    return len(words) > _LOOKED_AT_OF_OURS or _known.get().are_told_by(words)


def without_secrets(error: BaseException) -> None:
    """Cut off the causes of an error from the first one that holds
    a secret: errors of libraries repeat what a server said."""
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
    """Keeps secrets out of a log: secrets that are known where the line is written, and the given secrets."""

    def __init__(self, always: Known) -> None:
        super().__init__()
        self._always = always

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line through; the text of a line that holds a secret is left out."""
        before = _known.get()
        learned = tuple(secret for secret in before.secrets if secret not in self._always.secrets)
        with secrets_kept(Known((*self._always.secrets, *learned), before.public) if learned else self._always):
            message = record.getMessage()
            if (text := shown(message)) == NOT_SHOWN:
                record.msg, record.args = f"{record.name}: a line that holds a secret is not shown", ()
            elif text != message:
                record.msg, record.args = f"{text}… (the first of {len(message)} characters)", ()
            fields: dict[str, str] = record.__dict__.get(FIELDS, {})
            if fields and shown(joined := "\n".join(fields.values())) != joined:
                record.__dict__[FIELDS] = {name: shown(value) for name, value in fields.items()}
            if error := record.exc_info and record.exc_info[1]:
                without_secrets(error)
                if tells_secret(error):
                    record.exc_info, record.exc_text = None, f"{type(error).__name__}: {NOT_SHOWN}"
        return True
