"""What others say, on a terminal and in a log."""

import json
import logging
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tasks.secrecy.secrets import learn
from tasks.secrecy.visible import log_visibly, visible, visible_json, visible_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("\x9b31m\x7f\0\t", r"\x9b31m\x7f\x00\t"),
        ("one\r\ntwo\x85three\u2028four\x0b", r"one\r\ntwo\x85three\u2028four\x0b"),
        ("invoice\u202egpj.exe", r"invoice\u202egpj.exe"),
        ("\u2066a\u2069\u061c\ufeff\u200b\u200d\u00ad", r"\u2066a\u2069\u061c\ufeff\u200b\u200d\xad"),
        ("half \udc80 \ud83d", r"half \udc80 \ud83d"),
        ("\U000e0041\u3164", r"\U000e0041\u3164"),
        ("Größe 日本語 مرحبا é ✓️ 👍🏽 [Gmail]/All", "Größe 日本語 مرحبا é ✓️ 👍🏽 [Gmail]/All"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_written(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_no_character_of_a_kind_that_cannot_be_seen_is_left() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    left = {unicodedata.category(char) for char in visible(everything)}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert {unicodedata.category(char) for char in visible_lines(everything)} & {"Cc", "Cf", "Cs", "Zl", "Zp"} == {
        "Cc"
    }


def test_of_several_lines_only_the_first_begins_a_line() -> None:
    assert visible_lines("one\n[2026] two\r\n\x1bthree\n") == "one\n    [2026] two\\r\n    \\x1bthree\n    "


def test_json_says_the_same_with_escapes() -> None:
    value = {"a\x1b": ["\x7f\x9b\u202e\u2028\udc80\U000e0041", "é日👍", "line\nline\t"]}
    written = visible_json(json.dumps(value, indent=2, ensure_ascii=False))
    assert json.loads(written) == value
    assert visible_lines(written).count("\\") == written.count("\\")
    assert "é日👍" in written


@contextmanager
def speaking_as_a_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What this process logs and is warned of comes to standard error, as that of a command does."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log_visibly()
        yield
        logging.captureWarnings(False)


def test_a_command_logs_no_secret_that_it_has_in_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn("a sample password")
    with speaking_as_a_command(monkeypatch):
        logging.getLogger("tasks.mail").warning("NO wrong password: %s", "a sample password")
        logging.getLogger("tasks.mail").warning("NO try later")
    assert capsys.readouterr().err == "tasks.mail: a line that holds a secret is not shown\nNO try later\n"


def test_what_a_command_is_warned_of_is_made_visible(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with speaking_as_a_command(monkeypatch):
        warnings.warn("the server says \x1b[2J", stacklevel=1)
    assert r"the server says \x1b[2J" in capsys.readouterr().err
