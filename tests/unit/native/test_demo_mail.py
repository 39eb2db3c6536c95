"""The demo mailbox is the same every time and has what a real one has."""

import email
import email.policy
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path

import pytest

from native import demo, maildir
from native.demo_mail import DemoMessage, demo_messages, folders
from native.state import State


@pytest.fixture(scope="module")
def messages() -> list[DemoMessage]:
    return list(demo_messages())


def parsed(messages: list[DemoMessage]) -> list[EmailMessage]:
    return [email.message_from_bytes(found.raw, policy=email.policy.default) for found in messages]


def test_it_is_the_same_for_a_seed(messages: list[DemoMessage]) -> None:
    assert messages == list(demo_messages())
    assert messages != list(demo_messages(seed=1))


def test_it_has_a_few_hundred_messages_in_known_folders(messages: list[DemoMessage]) -> None:
    counts = Counter(found.folder for found in messages)
    assert 300 <= len(messages) <= 500
    assert set(counts) <= set(folders())
    assert counts["Sent"] > 50


def test_threads_hang_together(messages: list[DemoMessage]) -> None:
    letters = parsed(messages)
    ids = {letter["Message-ID"] for letter in letters}
    answers = [letter for letter in letters if letter["In-Reply-To"]]
    assert len(ids) == len(letters)
    assert len(answers) > 100
    assert all(set(str(letter["References"]).split()) <= ids for letter in answers)
    assert all(str(letter["References"]).split()[-1] == letter["In-Reply-To"] for letter in answers)


def test_attachments_and_charsets_of_every_kind(messages: list[DemoMessage]) -> None:
    parts = [part for letter in parsed(messages) for part in letter.walk()]
    types = {part.get_content_type() for part in parts}
    charsets = {part.get_content_charset() for part in parts}
    assert {"application/pdf", "image/png", "text/calendar", "application/zip", "text/csv", "text/html"} <= types
    assert {"iso-2022-jp", "koi8-r", "windows-1252", "iso-8859-1", "gb18030", "utf-8", "x-klingon-8"} <= charsets
    assert any(part["Content-ID"] == "<picture@demo>" for part in parts)


def test_some_are_broken(messages: list[DemoMessage]) -> None:
    raw = b"".join(found.raw for found in messages)
    assert b"\0" in raw
    assert b"31 Feb" in raw
    assert b"Content-Type: multipart/mixed\n\n" in raw


def test_the_maildir_has_names_flags_and_dates(messages: list[DemoMessage], tmp_path: Path) -> None:
    assert maildir.write(tmp_path / "utf7", folders(), messages, utf7=True) == len(messages)
    maildir.write(tmp_path / "plain", folders(), messages, utf7=False)

    assert (tmp_path / "utf7" / ".Projects.Hafen S&APw-d" / "cur").is_dir()
    assert (tmp_path / "plain" / ".Projects.Hafen Süd" / "cur").is_dir()
    drafts = list((tmp_path / "utf7" / ".Drafts" / "cur").iterdir())
    assert all(path.name.endswith(":2,DS") for path in drafts)
    newest = max(messages, key=lambda found: found.received)
    assert newest.received.timestamp() in {path.stat().st_mtime for path in (tmp_path / "utf7").rglob("cur/*")}
    assert all(b"\n" not in path.read_bytes().replace(b"\r\n", b"") for path in drafts)


def test_an_interrupted_mailbox_is_made_anew(messages: list[DemoMessage], tmp_path: Path) -> None:
    (tmp_path / "demo.unfinished" / "cur").mkdir(parents=True)
    (tmp_path / "demo.unfinished" / "cur" / "half").write_text("")
    assert maildir.write(tmp_path / "demo", folders(), messages, utf7=True) == len(messages)
    assert not list((tmp_path / "demo").rglob("half"))


def test_of_two_first_demos_at_once_one_makes_the_mailbox(messages: list[DemoMessage], tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(demo.make, [state] * 4))
    assert sorted(made) == [0, 0, 0, len(messages)]
