"""docs/operations.md lists each metric as the exporter has it."""

import re
from pathlib import Path

from tasks.monitoring.exporter.metrics import METRICS, Spec

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
HEAD = "| metric | type | labels | meaning |"


def rows() -> list[str]:
    return [
        f"| `{name}` | {spec.kind.name.lower()} | {labels(spec)} | {spec.meaning} |" for name, spec in METRICS.items()
    ]


def labels(spec: Spec) -> str:
    return ", ".join(f"`{label}`" for label in spec.labels)


def test_the_page_has_every_metric_and_no_other() -> None:
    [table] = re.findall(rf"^{re.escape(HEAD)}\n\| --- .*\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    assert table.splitlines() == rows()
