"""playbooks/restore.yml: what it refuses before anything is changed, and in which order it does what."""

import json
from typing import Any

import pytest
import yaml
from ansible.plugins.filter.core import to_bool
from jinja2.nativetypes import NativeEnvironment

from native.state import ROOT
from tests.unit.roles.plugins import ROLES

WHAT = yaml.safe_load((ROLES / "backup/tasks/restore_look.yml").read_text())
VARIABLES = yaml.safe_load((ROLES / "backup/vars/main.yml").read_text())
PLAYS = yaml.safe_load((ROOT / "playbooks/restore.yml").read_text())
TARGET = "2026-11-28 14:03:07+00"


def environment() -> NativeEnvironment:
    jinja = NativeEnvironment()
    jinja.filters |= {"bool": to_bool, "from_json": json.loads}
    return jinja


def is_refused(name: str, **values: Any) -> bool:
    """Whether the assertion of that name is reached with these values, and does not hold."""
    task = next(task for task in WHAT if task["name"] == name)
    evaluate = environment().compile_expression
    if not evaluate(task.get("when", "true"))(**values):
        return False
    that = task["ansible.builtin.assert"]["that"]
    return not all(evaluate(one)(**values) for one in ([that] if isinstance(that, str) else that))


@pytest.mark.parametrize(
    ("code", "output", "error", "overwrite", "goes_on", "refused"),
    [
        (0, "0\n", "", False, False, False),
        (0, "3\n", "", False, False, True),
        (0, "3\n", "", True, False, False),
        (0, "3\n", "", "true", False, False),  # as -e gives it
        (0, "3\n", "", "false", False, True),
        (0, "3\n", "", False, True, False),  # a restore that was begun
        (2, "", 'FATAL:  database "metabuilder" does not exist', False, False, False),
        (1, "", 'ERROR:  relation "email_client" does not exist', False, False, False),
        (2, "", "connection to server failed: No such file or directory", False, False, True),
    ],
)
def test_data_is_replaced_only_where_that_is_wanted(
    code: int, output: str, error: str, overwrite: object, goes_on: bool, refused: bool
) -> None:
    asked = {"rc": code, "stdout": output, "stderr": error}
    found = is_refused(
        "Refuse to replace data unless that is wanted",
        trim=str.strip,
        __backup_accounts=asked,
        restore_overwrite=overwrite,
        _backup_restore_goes_on=goes_on,
    )
    assert found == refused


@pytest.mark.parametrize(
    ("to", "seconds", "first", "refused"),
    [
        ("latest", 0, 1000, False),
        ("latest", 0, 0, True),  # no backup
        (TARGET, 1000, 1000, False),
        (TARGET, 999, 1000, True),
        (TARGET, 5000, 1000, False),
        (TARGET, 5001, 1000, True),  # is still to come
    ],
)
def test_only_a_moment_is_restored_that_there_are_backups_of(
    to: str, seconds: int, first: int, refused: bool
) -> None:
    class Now:
        def timestamp(self) -> float:
            return 5000.5

    found = is_refused(
        "Refuse without a backup, or to a moment that there is no backup of",
        now=lambda utc: Now(),
        __backup_first=first,
        _backup_restore_to=to,
        _backup_restore_seconds=str(seconds),
    )
    assert found == refused


@pytest.mark.parametrize(
    ("note", "goes_on", "is_recovered"),
    [
        ("", False, False),
        ({"to": TARGET, "step": "begun"}, True, False),
        ({"to": TARGET, "step": "recovered"}, True, True),
        ({"to": "latest", "step": "recovered"}, False, False),
    ],
)
def test_a_restore_goes_on_only_to_the_same_moment(note: object, goes_on: bool, is_recovered: bool) -> None:
    values: dict[str, Any] = {
        "_backup_restore_to": TARGET,
        "__backup_noted": {"stdout": json.dumps(note) if note else ""},
    }
    for name in ("_backup_restore_noted", "_backup_restore_goes_on", "_backup_restore_is_recovered"):
        values[name] = environment().from_string(VARIABLES[name]).render(**values)
    assert bool(values["_backup_restore_goes_on"]) == goes_on
    assert bool(values["_backup_restore_is_recovered"]) == is_recovered


def test_nothing_works_on_the_database_from_before_it_is_restored_until_all_is_dealt_with() -> None:
    said = [json.dumps(play) for play in PLAYS]
    places = [
        next(place for place, play in enumerate(said) if words in play)
        for words in ("restore_look", '"stop"', '"restore"', "application.yml", "restore:settle", "workers.yml")
    ]
    assert places == sorted(places)
    starts = ("workers.yml", "mail_watchers.yml", "beat.yml", "flower.yml")
    for playbook in starts:
        assert next(place for place, play in enumerate(said) if playbook in play) > places[-2]
    # What is written down of how far it got goes last, so that an interrupted restore goes on
    assert "restore_done" in said[-1]


def test_each_unit_that_has_tasks_done_is_stopped() -> None:
    # The exporter only reads
    assert units("decommission") - units("stop") == {"metabuilder-exporter.service"}


def units(steps: str) -> set[str]:
    """The units that these steps of the role `application` look for."""
    [found] = [
        task["ansible.builtin.find"]
        for task in yaml.safe_load((ROLES / f"application/tasks/{steps}.yml").read_text())
        if "ansible.builtin.find" in task
    ]
    return {*found["patterns"]}
