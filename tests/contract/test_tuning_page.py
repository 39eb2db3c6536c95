"""docs/tuning.md and docs/production-checklist.md name variables that roles have, and benchmarks that exist."""

import re

import pytest
import yaml

from benchmarks.tuning import SUBJECTS
from native.state import ROOT

PUBLIC = {
    name
    for file in ROOT.glob("roles/*/meta/argument_specs.yml")
    for spec in yaml.safe_load(file.read_text())["argument_specs"].values()
    for name in spec.get("options") or {}
}
PREFIXES = "|".join(sorted(role.name for role in (ROOT / "roles").iterdir()))


@pytest.mark.parametrize("page", ["tuning", "production-checklist"])
def test_the_variables_of_a_page_are_those_of_roles(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    named = set(re.findall(rf"\b((?:{PREFIXES})_[a-z_]+)\b", text))
    assert named
    # Names of items of the checklist may begin like a role.
    assert named - PUBLIC - {"redis_instances"} == set()


def test_every_subject_that_is_measured_is_told_of() -> None:
    text = (ROOT / "docs/tuning.md").read_text()
    assert [name for name in SUBJECTS if f"`{name}`" not in text] == []
