"""The dashboards of Prometheus and Grafana, both made from monitoring/dashboard.yml."""

import json
from pathlib import Path
from typing import Any

_HEIGHT, _WIDTH, _COLUMNS = 8, 12, 2
# Grafana's names of the units.
_UNITS = {"count": "short", "seconds": "s", "bytes": "bytes", "per second": "ops", "share": "percentunit"}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboards(folder: Path) -> dict[Path, str]:
    """The text of each file that is made from the description in this folder."""
    import yaml

    described = yaml.safe_load((folder / "dashboard.yml").read_text())
    page = (folder / "console.template.html").read_text()
    return {
        folder / "console.html": page.replace("DASHBOARD", json.dumps(described["rows"], indent=1)),
        folder / "grafana.json": json.dumps(_grafana(described), indent=2) + "\n",
    }


def _grafana(described: dict[str, Any]) -> dict[str, Any]:
    """A dashboard as Grafana imports it. It asks which Prometheus to read."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in described["rows"]:
        panels.append(_place({"type": "row", "title": row["title"]}, len(panels), 0, top, _COLUMNS * _WIDTH, 1))
        top += 1
        for number, panel in enumerate(row["panels"]):
            line, column = divmod(number, _COLUMNS)
            panels.append(_place(_panel(panel), len(panels), column * _WIDTH, top + line * _HEIGHT, _WIDTH, _HEIGHT))
        top += -(-len(row["panels"]) // _COLUMNS) * _HEIGHT
    return {
        "uid": "metabuilder",
        "title": described["title"],
        "schemaVersion": 36,
        "editable": True,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "1m",
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }


def _place(panel: dict[str, Any], number: int, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: dict[str, Any]) -> dict[str, Any]:
    legend = " ".join(f"{{{{{label}}}}}" for label in panel["of"])
    return {
        "type": "timeseries",
        "title": panel["title"],
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": _UNITS[panel["unit"]], "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": _SOURCE, "expr": panel["query"], "legendFormat": legend}],
    }
