"""monitoring/alerts.yml: each alert says how bad it is and leads to its symptom, and docs/operations.md lists it."""

import re

import pytest
import yaml

from native.state import ROOT
from tasks.runtime.outcomes import Outcome
from tests.contract.test_pages import leads

ALERTS = ROOT / "monitoring" / "alerts.yml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_no_two_alerts_share_a_name() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len({*names})


def test_operations_md_lists_each_alert() -> None:
    assert {*re.findall(r"`(Metabuilder\w+)`", (ROOT / "docs" / "operations.md").read_text())} == {
        rule["alert"] for rule in RULES
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_leads_to_its_symptom(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (page, anchor != "") == ("docs/troubleshooting.md", True)
    assert leads(ROOT / "README.md", page, anchor)


def test_outcomes_are_those_that_there_are() -> None:
    named = {
        outcome for words in re.findall(r'outcome=~"([^"]+)"', ALERTS.read_text()) for outcome in words.split("|")
    }
    assert named
    assert named <= {*Outcome}
