"""The map of the rooms in docs/architecture.md has the folders and modules that there are."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.state import ROOT

TASKS = ROOT / "tasks"
# Folders in which the map names each module; of the other folders of tasks/ it names the folders alone.
MODULES_OF = (TASKS, TASKS / "runtime")


def rooms(drawn: str) -> Iterator[Path]:
    """The paths that a map names: indented below their folder, one or several on a line, with two spaces behind."""
    parents = {0: ROOT}
    for line in drawn.splitlines():
        if found := re.fullmatch(r"( *)(\S+(?: \S+)*)(?:  .*)?", line):
            depth = len(found[1])
            if depth not in parents:
                continue  # the second line of an explanation
            named = [parents[depth] / name for name in found[2].split()]
            yield from named
            if len(named) == 1 and named[0].is_dir():
                parents = {place: parent for place, parent in parents.items() if place <= depth}
                parents[depth + 2] = named[0]


def drawn() -> set[Path]:
    page = (ROOT / "docs" / "architecture.md").read_text()
    return set(rooms(page.split("```\n")[1]))


def there() -> set[Path]:
    """The packages of tasks/ down to the second floor, and the modules of MODULES_OF."""
    packages = {file.parent for pattern in ("*/*.py", "*/*/*.py") for file in TASKS.glob(pattern)}
    modules = {file for folder in MODULES_OF for file in folder.glob("*.py") if not file.name.startswith("__")}
    return packages | modules


def test_every_room_of_the_map_is_there() -> None:
    assert [str(path.relative_to(ROOT)) for path in sorted(drawn()) if not path.exists()] == []


def test_every_room_that_is_there_is_on_the_map() -> None:
    assert [str(path.relative_to(ROOT)) for path in sorted(there() - drawn())] == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("tasks/", ["tasks"]),
        ("manage.sh   one entry: makes .venv", ["manage.sh"]),
        ("tasks/\n  sync.py send.py    the tasks", ["tasks", "tasks/send.py", "tasks/sync.py"]),
        ("tasks/\n  mail/     logins,\n            and hosts\n    imap/ pop3/    the wire\n  errors/  one tree", [
            "tasks", "tasks/errors", "tasks/mail", "tasks/mail/imap", "tasks/mail/pop3",
        ]),
    ],
)  # fmt: skip
def test_how_a_map_is_read(line: str, named: list[str]) -> None:
    assert sorted(str(path.relative_to(ROOT)) for path in rooms(line)) == named


def test_unit_tests_lie_as_what_they_test() -> None:
    """tests/unit has the folders of tasks/ and of the repository; a test named like a module is in its folder."""
    unit = ROOT / "tests" / "unit"
    homes: dict[str, set[Path]] = {}
    for file in TASKS.rglob("*.py"):
        homes.setdefault(f"test_{file.name}", set()).add(file.parent.relative_to(TASKS))
    for test in unit.rglob("test_*.py"):
        folder = test.parent.relative_to(unit)
        if folder.parts[:1] in (("manage",), ("native",), ("roles",)):
            continue
        assert (TASKS / folder).is_dir(), f"{test}: there is no tasks/{folder}"
        assert folder in homes.get(test.name, {folder}) or (TASKS / folder / test.stem[5:]).is_dir(), test
