"""What may be said: server's words without secrets, errors and what led to them, lines of a log."""

import io
import logging
import traceback

import pytest

from tasks.errors import ProtocolError
from tasks.secrecy.forms import Known
from tasks.secrecy.secrets import (
    NOT_SHOWN,
    SecretFilter,
    learn,
    said,
    secrets_kept,
    shown,
    tells_secret,
    without_secrets,
)

SECRET = "sample: s3cret"


def test_words_with_a_secret_are_not_said_and_others_are_cut() -> None:
    with secrets_kept(Known((SECRET,))):
        assert said(f"you said {SECRET}") == NOT_SHOWN
        assert said("x" * 195 + SECRET, 200) == NOT_SHOWN, "it is known before it is cut"
        assert said("no such user", 7) == "no such"
        assert len(said("x" * 10_000)) < 10_000


def test_what_is_learned_is_forgotten_at_the_end_of_the_block() -> None:
    with secrets_kept(Known()):
        learn(SECRET, None, "", public=["host"])
        assert said(SECRET) == NOT_SHOWN
        with secrets_kept(Known()):
            assert said(SECRET) == SECRET, "another task knows nothing of it"
        assert said(SECRET) == NOT_SHOWN
    assert said(SECRET) == SECRET


def test_what_is_public_is_learned_too() -> None:
    with secrets_kept(Known()):
        learn("mail.example", "another secret", public=["mail.example.org"])
        learn("a third secret", public=["mail.example.org", "imap.example"])
        assert said("mail.example.org is away") == "mail.example.org is away"
        for secret in ("another secret", "a third secret", "ada at mail.example"):
            assert said(secret) == NOT_SHOWN


def test_no_error_of_ours_holds_a_secret() -> None:
    with secrets_kept(Known((SECRET, "host"))):
        error = ProtocolError(f"it answered {SECRET}")
        assert SECRET not in f"{error} {error!r} {error.detail} {error.args}"
        assert shown("short secrets are words, as host is") == "short secrets are words, as host is"


def raised() -> ProtocolError:
    """An error with two that led to it; the second holds the secret."""
    try:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError(SECRET.encode())  # noqa: B904
        except ValueError as error:
            raise ProtocolError("last") from error
    except ProtocolError as error:
        return error


def test_what_led_to_an_error_is_cut_off_where_it_tells_a_secret() -> None:
    with secrets_kept(Known()):
        error = raised()
        without_secrets(error)
        assert "first" in "".join(traceback.format_exception(error)), "nothing is cut off without need"
        learn(SECRET)
        without_secrets(error)
    told = "".join(traceback.format_exception(error))
    assert "s3cret" not in told
    assert "last" in told
    assert error.__cause__ is error.__context__ is None


def test_the_whole_of_what_led_to_an_error_is_looked_at_and_its_circles_end() -> None:
    last, harmless, telling = ProtocolError("last"), KeyError("harmless"), ValueError(SECRET)
    last.__cause__, harmless.__context__, telling.__context__ = harmless, telling, last
    with secrets_kept(Known((SECRET,))):
        without_secrets(last)
    assert last.__cause__ is harmless
    assert harmless.__context__ is None
    harmless.__context__ = last
    with secrets_kept(Known((SECRET,))):
        without_secrets(last)
    assert harmless.__context__ is last


class _QuietError(Exception):
    def __str__(self) -> str:
        return "quiet"


class _LoudError(Exception):
    def __str__(self) -> str:
        return f"it said {SECRET}"


def test_notes_words_and_arguments_of_an_error_are_looked_at() -> None:
    noted = ValueError("no")
    noted.add_note(f"the answer was {SECRET}")
    with secrets_kept(Known((SECRET,))):
        assert tells_secret(noted)
        assert tells_secret(KeyError({"answer": SECRET.encode()}))
        assert tells_secret(_QuietError(SECRET))
        assert tells_secret(_LoudError())
        assert tells_secret(ValueError("x" * 100_000 + SECRET))
        assert not tells_secret(ValueError("no"))


@pytest.fixture
def log() -> io.StringIO:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(SecretFilter(Known(("always a secret",))))
    logger = logging.getLogger("tests.secrecy")
    logger.addHandler(handler)
    logger.propagate = False
    yield written
    logger.removeHandler(handler)


def test_a_line_of_the_log_holds_no_secret(log: io.StringIO) -> None:
    logger = logging.getLogger("tests.secrecy")
    logger.warning("connecting to %s", "redis://:always%20a%20secret@cache.example:6379/0")
    with secrets_kept(Known((SECRET,))):
        logger.warning("it answered %r", SECRET.encode())
        try:
            raise ValueError(SECRET)
        except ValueError:
            logger.exception("it went wrong")
        try:
            raise raised()
        except ProtocolError:
            logger.exception("and again")
    logger.warning("an ordinary line: %s", "redis://cache.example:6379/0")
    logger.warning("a long line: %s", "100% " * 20_000 + "always a secret")

    written = log.getvalue()
    assert "s3cret" not in written
    assert "always" not in written
    assert "an ordinary line: redis://cache.example:6379/0" in written
    assert "a long line: 100% 100% 100%" in written
    assert written.endswith("… (the first of 100028 characters)\n")
    assert "it went wrong\nValueError: its answer repeats a secret" in written
    assert "and again\nTraceback" in written
