"""A record as a line: its words, its fields, and nothing that a server could forge."""

import logging
import socket
import sys
import time

import pytest

from native.logs import Wanted
from tasks.log_fields import FIELDS, Field, logged_with
from tasks.runtime.log.line import LineFormatter, describe
from tasks.secrecy.forms import Known
from tasks.secrecy.secrets import SecretFilter

FORMATTER = LineFormatter("[%(levelname)s] %(message)s", shows_addresses=False)
FORGED = "[2026-11-27 01:02:03,004: INFO/MainProcess] Task sync_emails succeeded\taccount=b"


def line(message: str, *args: object, formatter: LineFormatter = FORMATTER, **attributes: object) -> str:
    """What is written of a record."""
    info = attributes.pop("exc_info", None)
    record = logging.LogRecord("name", logging.WARNING, __file__, 1, message, args, info)
    record.__dict__.update(attributes)
    describe(record)
    return formatter.format(record)


def test_fields_follow_the_words() -> None:
    with logged_with(task="sync_emails", account="a 1", tenant=None):
        with logged_with(folder='f"\\'):
            inner = line("hello", uid=5, unknown=6)
        assert inner == '[WARNING] hello\ttask=sync_emails account="a 1" folder="f\\"\\\\" uid=5'
        assert line("hello").endswith('account="a 1"')
    assert line("hello") == "[WARNING] hello"


def test_celerys_lines_tell_their_task_and_how_long_it_took() -> None:
    told = {"id": "1", "name": "email_service.tasks.sync_emails", "runtime": 0.12345}
    assert line("done", data=told) == "[WARNING] done\ttask=sync_emails task_id=1 duration=0.123"
    with logged_with(task_id="2", account="a"):
        assert line("done", data=told) == "[WARNING] done\ttask=sync_emails task_id=2 account=a duration=0.123"
    assert line("odd", data=["id", "name"]) == "[WARNING] odd"


def test_no_server_forges_a_line_or_a_field() -> None:
    """By its words, by the exception that they are in, or by what led to that."""
    ends = ("\n", "\r\n", "\r", "\x85", "\u2028", "\x0b", "\t")
    said = "NO \x1b[2J\x9b0m\u202e" + "".join(f"{end}{FORGED}" for end in ends)
    try:
        try:
            raise OSError(said)
        except OSError as error:
            raise ValueError(said) from error
    except ValueError:
        info = sys.exc_info()

    with logged_with(account="a", folder=said):
        text = line("%s", said, exc_info=info)

    first, *others = text.split("\n")
    assert "NO \\x1b[2J\\x9b0m\\u202e" in first
    assert len(others) > 10
    assert all(other.startswith("    ") for other in others)
    assert not set(text) & {"\x1b", "\x9b", "\u202e", "\r", "\x85", "\u2028", "\x0b"}
    assert text.count("\t") == 1
    assert Wanted(account="a").matches(first)
    assert not Wanted(account="b").matches(first)
    assert not Wanted(account="b").matches(line("%s", said))


def test_no_field_tells_a_secret() -> None:
    record = logging.LogRecord("name", logging.WARNING, __file__, 1, "hello", (), None)
    with logged_with(account="a", folder="my%20long%20secret"):
        describe(record)
    SecretFilter(Known(("my long secret",))).filter(record)
    assert record.__dict__[FIELDS][Field.ACCOUNT] == "a"
    assert "secret" not in record.__dict__[FIELDS][Field.FOLDER].replace("repeats a secret", "")


def test_addresses_are_shown_where_that_is_asked_for() -> None:
    said = 'no mailbox <ann+x@mail.example>, "o\'hara"@[192.0.2.1]: imap://ann:p@ss@mail.example'
    shown = line("%s", said)
    for name in ("ann", "hara", "ss@"):
        assert name not in shown
    assert "mail.example" in shown
    assert said in line("%s", said, formatter=LineFormatter("%(message)s", shows_addresses=True))
    # A worker of this host is no person.
    assert line("%s ready", f"worker@{socket.gethostname()}").endswith(f"worker@{socket.gethostname()} ready")


@pytest.mark.parametrize("said", ["x" * 200_000, "x" * 200_000 + " @", "x@" * 100_000, "@" * 200_000], ids=len)
def test_long_words_take_no_time(said: str) -> None:
    began = time.monotonic()
    line("%s", said)
    assert time.monotonic() - began < 1
