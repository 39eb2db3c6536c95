"""The roles' variables: one name, type and default in the defaults, the specs, the README, and where they become
environment variables, in the settings."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from manage.docs import role_readme

ROOT = Path(__file__).parents[2]
ROLES = sorted((ROOT / "roles").iterdir())
TYPES = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict"}

pytestmark = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def defaults(role: Path) -> dict[str, Any]:
    file = role / "defaults" / "main.yml"
    return yaml.safe_load(file.read_text()) or {} if file.exists() else {}


def specs(role: Path) -> dict[str, Any]:
    (spec,) = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"].values()
    return spec.get("options") or {}


def test_the_specs_name_the_variables_of_the_defaults_in_their_order(role: Path) -> None:
    assert list(specs(role)) == list(defaults(role))


def test_the_specs_have_the_values_and_types_of_the_defaults(role: Path) -> None:
    for name, value in defaults(role).items():
        spec = specs(role)[name]
        assert spec["default"] == value, name
        if not (isinstance(value, str) and "{{" in value):
            assert spec["type"] == TYPES[type(value)], name


def test_every_variable_begins_with_the_name_of_its_role(role: Path) -> None:
    assert [name for name in defaults(role) if not name.startswith(f"{role.name}_")] == []


def test_every_variable_is_explained(role: Path) -> None:
    text = (role / "defaults" / "main.yml").read_text() if defaults(role) else ""
    unexplained = [
        name
        for paragraph in re.split(r"\n\s*\n", text)
        for name in re.findall(r"^([a-z]\w*):", paragraph.partition("#")[0], re.MULTILINE)
    ]
    assert unexplained == []
    assert all(spec["description"] for spec in specs(role).values())


def test_no_two_variables_share_a_description(role: Path) -> None:
    descriptions = Counter(" ".join(spec["description"].split()) for spec in specs(role).values())
    assert [text for text, number in descriptions.items() if number > 1] == []


def test_secrets_are_not_logged(role: Path) -> None:
    secrets = {name for name in defaults(role) if re.search(r"pass(word|phrase)$|_key$", name)}
    assert {name for name in secrets if not specs(role)[name].get("no_log")} == set()


def test_the_readme_is_made_from_the_specs(role: Path) -> None:
    assert (role / "README.md").read_text() == role_readme(role), "run ./manage.sh docs"


def dependencies(role: Path) -> list[str]:
    """The roles whose variables this role may read, those of its dependencies included."""
    meta = yaml.safe_load((role / "meta" / "main.yml").read_text())
    named = [dependency["role"] for dependency in meta["dependencies"]]
    return [*named, *(further for name in named for further in dependencies(ROOT / "roles" / name))]


def test_roles_read_the_variables_of_their_dependencies_alone(role: Path) -> None:
    others = {other.name for other in ROLES} - {role.name, *dependencies(role)}
    parts = ("tasks", "vars", "templates", "defaults")
    text = "\n".join(file.read_text() for part in parts for file in (role / part).rglob("*") if file.is_file())
    assert {name for name in others if re.search(rf"\b_{name}_", text)} == set()
    assert role.name == "site" or "site" in dependencies(role)


def test_a_dependency_brings_no_work_that_would_be_done_again(role: Path) -> None:
    """Of a dependency, tasks/main.yml runs before each use of the role; the site's only gathers facts, once."""
    main = ("tasks", "main.yml")
    assert [name for name in dependencies(role) if (ROOT / "roles" / name).joinpath(*main).exists()] in ([], ["site"])


def test_no_file_of_tasks_is_empty(role: Path) -> None:
    assert [file.name for file in (role / "tasks").glob("*.yml") if not yaml.safe_load(file.read_text())] == []
