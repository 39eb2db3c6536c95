"""docs/commands.md lists every verb of the command line, and says where each exists."""

import re
from pathlib import Path

import click

from manage import cli
from native.state import ROOT

PAGE = Path(ROOT) / "docs/commands.md"
VERB = re.compile(r"`([a-z:-]+)")
SUBVERB = re.compile(r"`(?:(?P<group>[a-z]+) )?(?P<verb>[a-z-]+)(?: [^`]*)?`")


def rows() -> list[list[str]]:
    cells = [line.strip("|\n ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [row for row in cells if len(row) == 5 and row[1] in ("yes", "–")]


def listed(where: int) -> set[str]:
    """The verbs that the page says exist in a clone (1), on a host (2) or with -i (3)."""
    names: set[str] = set()
    for row in rows():
        if row[where] != "–":
            found = VERB.findall(row[0])
            names |= {found[0]} if isinstance(cli.main.commands.get(found[0]), click.Group) else set(found)
    return names


def test_every_verb_is_listed_where_it_exists() -> None:
    everywhere = {verb.name for verb in cli._EVERYWHERE}
    on_hosts = everywhere | {verb.name for verb in cli._ITS_OWN_WAY}
    of_the_control_machine = {verb.name for verb in cli._ON_THE_CONTROL_MACHINE}
    assert listed(1) == on_hosts | {verb.name for verb in cli._IN_A_CLONE} | of_the_control_machine
    assert listed(2) == on_hosts
    assert listed(3) == on_hosts - {"top"} | of_the_control_machine
    assert {verb.name: other.name for verb, other in cli._ITS_OWN_WAY.items()} == {
        verb.name: verb.name for verb in cli._ITS_OWN_WAY
    }


def test_every_verb_of_a_group_is_listed() -> None:
    explained = {"account", "backup", "credentials", "dlq", "event", "outbox", "secrets", "tasks"}
    for name in explained:
        group = cli.main.commands[name]
        assert isinstance(group, click.Group)
        first_cells = [row[0] for row in rows() if row[0].startswith(f"`{name} ")]
        verbs = {found["verb"] for cell in first_cells for found in SUBVERB.finditer(cell)}
        assert verbs == set(group.commands), name
