"""docs/runbooks.md says of each runbook how it was tried: the test that does so exists, or the day is named."""

import re

import pytest

from manage import cli
from native.state import ROOT
from tests.support.page_commands import commands

PATH = ROOT / "docs" / "runbooks.md"
PAGE = PATH.read_text()
RUNBOOKS, _, TRIED = PAGE.partition("\n## How each was tried\n")
TITLES = re.findall(r"^## (.+)$", RUNBOOKS, re.MULTILINE)
ROWS = dict(re.findall(r"^\| \[(.+?)\]\(#[\w-]+\) \| (.+) \|$", TRIED, re.MULTILINE))
TEST = re.compile(r"`([\w./-]+\.py)::(\w+)`")
BY_HAND = re.compile(r"by hand on \d{4}-\d\d-\d\d, .*Debian 1\d")
# A playbook, with its folder where it has one.
PLAYBOOK = re.compile(r"(?<![\w./])((?:playbooks/)?[\w-]+\.yml)")


def test_each_runbook_says_how_it_was_tried() -> None:
    assert len(TITLES) > 5
    assert list(ROWS) == TITLES


@pytest.mark.parametrize("title", TITLES)
def test_what_tried_it_exists(title: str) -> None:
    tests = TEST.findall(ROWS[title])
    assert tests or BY_HAND.search(ROWS[title])
    lost = [f"{path}::{name}" for path, name in tests if f"\ndef {name}(" not in (ROOT / path).read_text()]
    assert lost == []


def test_each_playbook_that_is_named_exists() -> None:
    named = set(PLAYBOOK.findall(RUNBOOKS))
    assert {"site.yml", "playbooks/decommission.yml"} <= named
    assert [
        name for name in named if not any((ROOT / folder / name).is_file() for folder in (".", "playbooks"))
    ] == []


def test_each_verb_that_is_named_exists() -> None:
    verbs = {line.split()[1] for line in commands(PATH) if line.startswith("metabuilder ")}
    assert {"health", "queue:status", "worker:shutdown"} <= verbs
    assert verbs - cli.main.commands.keys() == set()
