"""docs/security.md names tests, files, commands and secrets that exist, and leaves no secret out."""

import re
from pathlib import Path

import pytest
import yaml

from manage.secrets import ENCRYPTION_KEY, PASSWORDS
from native.state import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
# Each file that is named by its path, with the test in it where one is.
NAMED = re.findall(r"`((?:tests|molecule|playbooks|docs|tasks|roles)/[\w./-]+)(?:::(\w+))?`", PAGE)
LINKS = re.findall(r"\]\(([\w./-]+)(?:#([\w-]+))?\)", PAGE)


def test_there_is_something_to_hold_it_against() -> None:
    assert len(NAMED) > 30
    assert len(LINKS) > 5


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_what_is_named_is_there(file: str, test: str) -> None:
    path = ROOT / file
    assert path.is_file()
    if test:
        assert re.search(rf"^def {test}\(", path.read_text(), re.MULTILINE)
    elif path.name.startswith("test_"):
        assert re.search(r"^def test_", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("file", "heading"), LINKS)
def test_what_is_linked_is_there(file: str, heading: str) -> None:
    text = (ROOT / "docs" / file).read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert not heading or heading in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}


def test_the_page_is_linked() -> None:
    assert "docs/security.md" in (ROOT / "README.md").read_text()
    assert "security.md" in (ROOT / "docs" / "architecture.md").read_text()


def test_every_secret_of_a_site_has_a_row() -> None:
    table = PAGE.partition("## Secrets")[2].partition("\n## ")[0]
    renewed = {
        f"secrets renew … {name}" for name in PASSWORDS if name not in ("tls_ca_passphrase", "backup_passphrase")
    }
    assert {command for command in renewed if command not in table} == set()
    assert "under a passphrase" in table
    assert "backup_passphrase" in table
    assert ENCRYPTION_KEY in (ROOT / "docs" / "operations.md").read_text()


MODES = re.compile(r"`([a-z-]+\.(?:env|acl))` (0\d{3}) `(\w+)`")


@pytest.mark.parametrize(("name", "mode", "group"), MODES.findall(PAGE))
def test_the_modes_are_those_that_the_roles_give(name: str, mode: str, group: str) -> None:
    given = [
        (str(arguments["mode"]), arguments["group"])
        for file in sorted((ROOT / "roles").glob("*/tasks/*.yml"))
        for task in tasks(yaml.safe_load(file.read_text()))
        if (arguments := task.get("ansible.builtin.template"))
        and not task.get("check_mode")
        and is_made(name, arguments)
    ]
    assert given == [(mode, group)]


def tasks(found: list[dict] | None) -> list[dict]:
    return [one for task in found or [] for one in (task, *tasks(task.get("block")))]


def is_made(name: str, arguments: dict[str, str]) -> bool:
    # A copy that a release is tried with is nobody's but root's, and goes again.
    return Path(arguments["src"]).name == name and "_proof" not in arguments["dest"]
