"""The production checklist: the page, the verb, the playbook and the roles name the same things."""

import re
import shlex

import pytest
import yaml

from manage import cli
from manage.checklist import VARIABLES, Item, items
from manage.docs import checklist_page
from manage.preflight import _FINDINGS, _VALUES
from native.state import ROOT

PAGE = ROOT / "docs/production-checklist.md"
VALUES, _ = yaml.safe_load((ROOT / "playbooks/checklist.yml").read_text())


def test_the_page_has_the_items_of_the_verb() -> None:
    text = PAGE.read_text()
    assert checklist_page(PAGE) == text, "run ./manage.sh docs"
    assert [item.name for item in items() if f"| `{item.name}` |" not in text] == []


def test_items_have_names_of_their_own_that_can_be_keys() -> None:
    names = [item.name for item in items()]
    assert len(set(names)) == len(names) > 25
    assert [name for name in names if not re.fullmatch(r"[a-z_]+", name)] == []


@pytest.mark.parametrize("item", items(), ids=lambda item: item.name)
def test_the_command_of_an_item_can_be_typed(item: Item) -> None:
    program, *words = shlex.split(item.command)
    if program == "./manage.sh":
        assert words[:2] == ["-i", "inventories/NAME"]
        assert words[2] in cli.main.commands
    assert [word for word in words if word.startswith("playbooks/") and not (ROOT / word).exists()] == []


def test_the_playbook_loads_the_roles_whose_variables_are_read() -> None:
    roles = {role["role"] for role in VALUES["roles"]}
    assert all(role["when"] is False and role["tags"] == "defaults_alone" for role in VALUES["roles"])
    public = {
        name: role.name
        for role in (ROOT / "roles").iterdir()
        if (role / "defaults/main.yml").exists()
        for name in yaml.safe_load((role / "defaults/main.yml").read_text()) or {}
    }
    of_ansible = {name for name in VARIABLES if name.startswith("ansible_")} | {"group_names"}
    assert set(VARIABLES) - of_ansible <= set(public)
    assert {public[name] for name in set(VARIABLES) - of_ansible} <= roles


def test_the_playbook_is_about_the_hosts_that_preflight_looks_at() -> None:
    (looked,) = yaml.safe_load((ROOT / "playbooks/preflight.yml").read_text())
    assert VALUES["hosts"] == looked["hosts"], "name the same groups in playbooks/checklist.yml"


def test_the_verb_knows_the_tasks_by_their_names() -> None:
    assert [task["name"] for task in VALUES["tasks"]] == [_VALUES]
    judge = yaml.safe_load((ROOT / "roles/preflight/tasks/judge.yml").read_text())
    assert judge[-1]["name"] == _FINDINGS
