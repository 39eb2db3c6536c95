"""The dashboards are made from their description, and ask for metrics that the exporter tells."""

import json
import re

import pytest
import yaml

from manage.dashboards import dashboards
from native.state import ROOT
from tasks.monitoring.exporter.metrics import METRICS, Kind
from tests.unit.roles.plugins import load

watch = load("backup/files/backup_watch.py")

FOLDER = ROOT / "monitoring"
PANELS = [panel for row in yaml.safe_load((FOLDER / "dashboard.yml").read_text())["rows"] for panel in row["panels"]]
NAME = re.compile(r"\bmetabuilder_\w+")


def told() -> set[str]:
    """The names of the samples of the exporter."""
    parts = {Kind.HISTOGRAM: ("_bucket", "_count", "_sum")}
    return {name + part for name, spec in METRICS.items() for part in parts.get(spec.kind, ("",))}


def told_of_backups() -> set[str]:
    """The names that the host of the backups leaves to its own exporter."""
    found = {"restore_seconds": 1.0, "rpo_seconds": 1.0}
    metrics = [
        *watch.of_backups({"backup": [{"type": "full", "timestamp": {"stop": 1}, "info": {"size": 1}}]}, is_ok=True),
        *watch.of_drill(found, is_ok=True, began=0.0, ended=1.0),
    ]
    return {name for name, _, _ in metrics}


@pytest.mark.parametrize("file", ["alerts.yml", "console.html", "grafana.json"])
def test_every_metric_is_one_that_an_exporter_tells(file: str) -> None:
    named = {*NAME.findall((FOLDER / file).read_text())}
    assert named
    assert named <= told() | told_of_backups()


def test_the_files_are_made_from_the_description() -> None:
    made = dashboards(FOLDER)
    assert len(made) == 2
    assert [file.name for file, text in made.items() if file.read_text() != text] == [], "run ./manage.sh docs"


def test_both_have_every_panel() -> None:
    grafana = json.loads((FOLDER / "grafana.json").read_text())
    shown = [panel for panel in grafana["panels"] if panel["type"] == "timeseries"]
    assert [(panel["title"], panel["targets"][0]["expr"]) for panel in shown] == [
        (panel["title"], panel["query"]) for panel in PANELS
    ]
    console = re.findall(
        r'<script type="application/json" id="dashboard">(.*?)</script>',
        (FOLDER / "console.html").read_text(),
        re.DOTALL,
    )
    assert [panel for row in json.loads(console[0]) for panel in row["panels"]] == PANELS


def test_no_two_panels_of_grafana_share_a_place() -> None:
    panels = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    places = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len({*places})
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
