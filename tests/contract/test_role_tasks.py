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
# Modules that run on the control machine alone.
NEEDS_NO_HOST = ("set_fact", "fail", "assert")


def below(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """These plays, blocks or tasks, and those in them."""
    for task in found:
        yield task
        for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
            yield from below(task.get(part) or [])


def tasks_of(file: Path) -> Iterator[dict[str, Any]]:
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


def steps(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The roles that plays or tasks import, each with the file of its tasks."""
    roles = [task["ansible.builtin.import_role"] for task in below(found) if "ansible.builtin.import_role" in task]
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
    assert steps([whole]) == [*order, ("application", "switch")]
    assert steps([first]) == [("preflight", "main"), *order, ("application", "keep")]
    assert first["any_errors_fatal"]
    switched = {play["hosts"] for play in others if ("application", "begin") in steps([play])}
    groups = [re.sub(r"\{\{ '(.*?)' if .*}}", r"\1", hosts) for hosts in (first["hosts"], *sorted(switched))]
    whole, *parts = (set(re.findall(r"(?<![!\w])\w+", hosts)) for hosts in groups)
    assert set[str]().union(*parts) == whole
    assert whole == {"celery_workers", "celery_beat", "flower", "exporter", "mail_watchers"}


def the_roll_out() -> list[dict[str, Any]]:
    """The plays of deploy.yml that switch hosts or take them back."""
    plays = yaml.safe_load((ROOT / "playbooks" / "deploy.yml").read_text())
    return [play for play in plays if {("application", "begin"), ("application", "take_back")} & {*steps([play])}]


def test_no_failure_on_a_host_keeps_the_hosts_before_it_from_being_taken_back() -> None:
    """Where a failure or a lost connection ends a play, no other play follows it."""
    for play in the_roll_out():
        *ends, whole = play["tasks"]
        assert all("ansible.builtin.meta" in task for task in ends), play["name"]
        tried, *_ = whole["block"]
        assert tried["ignore_unreachable"], play["name"]
        assert tried["when"] == "not _application_is_lost", play["name"]
        assert ("application", "reached") in steps(whole["block"]), play["name"]
        assert ("application", "note") in steps(whole["rescue"]), play["name"]


def test_a_roll_out_notices_every_task_that_did_not_reach_its_host() -> None:
    """By the result that the task registers."""
    pending = [step for play in the_roll_out() for step in steps([play])]
    seen, looked_at = set[tuple[str, str]](), 0
    while pending:
        role, step = pending.pop()
        if (role, step) in seen:
            continue
        seen.add((role, step))
        for task in tasks_of(ROOT / f"roles/{role}/tasks/{step}.yml"):
            if imported := task.get("ansible.builtin.import_tasks"):
                pending.append((role, imported.removesuffix(".yml")))
            elif "ansible.builtin.import_role" in task:
                pending += steps([task])
            elif "block" not in task and not any(f"ansible.builtin.{module}" in task for module in NEEDS_NO_HOST):
                looked_at += 1
                assert task.get("register", "").startswith("__"), (role, step, task["name"])
    assert looked_at > 20


def test_the_migration_is_finished_when_there_is_nothing_left_to_take_back() -> None:
    *_, last_but_one, last, of_the_application = yaml.safe_load((ROOT / "playbooks" / "deploy.yml").read_text())
    assert last["ansible.builtin.import_playbook"] == "finish.yml"
    assert of_the_application["tasks"][0]["ansible.builtin.include_role"]["name"] == "client"
    assert steps([last_but_one])[-1] == ("application", "report")
    (report,) = tasks_of(ROOT / "roles/application/tasks/report.yml")
    assert report["any_errors_fatal"]
    assert report["run_once"]
