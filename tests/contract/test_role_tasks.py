"""What only hosts show, and what roles and playbooks must say for it: modes, announced restarts, and their order."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from native.state import ROOT

ROLES = sorted((ROOT / "roles").iterdir())
# Modules that make files and folders with the umask of whoever runs them, unless they are given a mode.
MAKES_FILES = ("template", "copy", "file", "assemble", "get_url")


def tasks_of(file: Path) -> Iterator[dict[str, Any]]:
    def below(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for task in found:
            yield task
            for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
                yield from below(task.get(part) or [])

    yield from below(yaml.safe_load(file.read_text()) or [])


def tasks(role: Path) -> list[dict[str, Any]]:
    return [task for file in sorted((role / "tasks").glob("*.yml")) for task in tasks_of(file)]


FILES = [*sorted(ROOT.glob("roles/*/tasks/*.yml")), *sorted(ROOT.glob("playbooks/*.yml"))]
ALL = [(file.relative_to(ROOT), task) for file in FILES for task in tasks_of(file)]


def test_no_file_gets_its_mode_from_a_umask() -> None:
    made = 0
    for file, task in ALL:
        for module in MAKES_FILES:
            arguments = task.get(f"ansible.builtin.{module}") or {}
            if not arguments or task.get("check_mode") is True or arguments.get("state") in ("absent", "link"):
                continue
            made += 1
            assert re.fullmatch(r"0[0-7]{3}|\{\{.*\}\}", str(arguments.get("mode"))), (file, task["name"])
    assert made > 30


def test_what_unpacks_or_upgrades_sets_its_own_umask() -> None:
    found = []
    for file, task in ALL:
        command = str((task.get("ansible.builtin.shell") or {}).get("cmd", ""))
        if "tar --extract" in command or "pg_upgradecluster" in command:
            found.append(file.name)
            assert "umask 022" in command, (file, task["name"])
    assert {*found} == {"install.yml", "upgrade.yml"}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_what_a_unit_reads_is_announced_in_check_mode(role: Path) -> None:
    """`--check` writes nothing, so what would have been written has to be a reason for the restart by itself."""
    units = [task for task in tasks(role) if "unit_current" in task]
    if not units:
        return
    variables = "".join((ROOT / "roles" / name / "vars" / "main.yml").read_text() for name in (role.name, "site"))
    asked = " ".join([variables, *(str(task["unit_current"].get("needs")) for task in units)])
    assert "ansible_check_mode" in asked
    for task in tasks(role):
        written = task.get("ansible.builtin.template") or {}
        is_for_a_unit = str(written.get("dest", "")).startswith(("/etc/systemd", "/etc/metabuilder", "/etc/redis"))
        if is_for_a_unit and not task.get("check_mode"):
            assert task.get("register"), task["name"]
            assert task["register"] in asked, task["name"]


def steps(play: dict[str, Any]) -> list[tuple[str, str]]:
    """The roles that a play imports, each with the file of its tasks."""
    roles = [task["ansible.builtin.import_role"] for task in play["tasks"]]
    return [(role["name"], role.get("tasks_from", "main")) for role in roles]


def test_a_release_is_proved_before_anything_is_migrated_or_switched() -> None:
    order = [("application", "install"), ("celery_worker", "prove"), ("application", "migrate")]
    for role, step in order:  # where one host cannot go on, none does
        *_, last = (
            task for task in tasks_of(ROOT / f"roles/{role}/tasks/{step}.yml") if "ansible.builtin.fail" in task
        )
        assert last["any_errors_fatal"], step
    (whole,) = yaml.safe_load((ROOT / "playbooks" / "application.yml").read_text())
    first, *others = yaml.safe_load((ROOT / "playbooks" / "deploy.yml").read_text())
    assert steps(whole) == [*order, ("application", "switch")]
    assert steps(first) == [("preflight", "main"), *order]
    switched = {play["hosts"] for play in others if "hosts" in play}
    assert switched == {*first["hosts"].split(":")} == {"celery_workers", "celery_beat", "flower", "exporter"}
    assert all(play["any_errors_fatal"] for play in (first, *others) if "hosts" in play)
