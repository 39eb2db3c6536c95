"""Alerts lead to the pages that the inventory names."""

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from native.state import ROOT
from tests.unit.roles.plugins import load

plugin = load("monitoring/filter_plugins/runbooks.py")
TEXT = (ROOT / "monitoring" / "alerts.yml").read_text()


def runbooks(text: str) -> list[str]:
    groups = yaml.safe_load(text)["groups"]
    return [rule["annotations"]["runbook"] for group in groups for rule in group["rules"]]


def test_links_lead_into_the_clone_unless_the_inventory_names_another_place() -> None:
    assert plugin.with_runbooks(TEXT, "docs/") == TEXT


def test_every_link_leads_to_the_place_that_is_named() -> None:
    place = r"https://wiki.example.org/a\1/"
    moved = runbooks(plugin.with_runbooks(TEXT, place))
    assert moved == [place + link.removeprefix("docs/") for link in runbooks(TEXT)]


@pytest.mark.parametrize("place", ["", "https://wiki.example.org", "docs/ # all", "{{ x }}/", "'docs/"])
def test_a_place_that_begins_no_link_is_refused(place: str) -> None:
    with pytest.raises(AnsibleFilterError, match="monitoring_runbooks is"):
        plugin.with_runbooks(TEXT, place)
