"""docs/tasks.md shows the table of rules as it is."""

from pathlib import Path

from tasks.mail.spam.phrases import PHRASES
from tasks.mail.spam.weights import RULES, WEIGHTS

TASKS = Path(__file__).parents[2] / "docs/tasks.md"


def test_the_documented_rules_are_the_rules() -> None:
    rows = [f"| `{rule.name}` | {rule.weight:+.2f} | {rule.meaning} |" for rule in RULES]
    _, _, after = TASKS.read_text().partition("| rule | weight | meets |\n|---|---:|---|\n")
    assert after.partition("\n\n")[0].splitlines() == rows


def test_every_kind_of_phrases_has_its_rule() -> None:
    assert {f"phrases_{kind}" for kind in PHRASES} == {name for name in WEIGHTS if name.startswith("phrases_")}
