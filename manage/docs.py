"""`docs`: writes what is made from other files: the tables of variables in roles/*/README.md, the dashboards, and the
production checklist."""

from pathlib import Path
from typing import Any

import click

from manage.examples import example
from manage.output import say

# What follows in the page is made.
_MARK = "<!-- Made from manage/checklist.py by ./manage.sh docs. -->"


@example("docs")
@click.command()
def docs() -> None:
    """Write the tables of the roles' variables again, from their argument specs; the dashboards; the checklist."""
    from manage.dashboards import dashboards
    from native.state import ROOT

    readmes = {role / "README.md": role_readme(role) for role in sorted((ROOT / "roles").iterdir())}
    checklist = {ROOT / "docs/production-checklist.md": checklist_page(ROOT / "docs/production-checklist.md")}
    for file, text in {**readmes, **dashboards(ROOT / "monitoring"), **checklist}.items():
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
            say(f"Wrote {file.relative_to(ROOT)}")


def checklist_page(page: Path) -> str:
    """The page with its own words, and below the mark the items of the checklist."""
    from manage.checklist import tables

    own, mark, _ = page.read_text().partition(_MARK)
    return f"{own}{mark}\n\n{tables()}"


def role_readme(role: Path) -> str:
    """The README of a role, from its argument specs."""
    import yaml

    (spec,) = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"].values()
    options = spec.get("options") or {}
    head = f"# {role.name}\n\n{spec['short_description']}.\n"
    if not options:
        return head
    rows = [
        f"| `{name}` | {_type(option)} | {_default(option)} | {_cell(option['description'])} |"
        for name, option in options.items()
    ]
    table = ["| variable | type | default | meaning |", "|---|---|---|---|", *rows]
    note = "Made from `meta/argument_specs.yml` by `./manage.sh docs`."
    return "\n".join([head, *table, "", note, ""])


def _type(option: dict[str, Any]) -> str:
    of_one = option["elements"] if option["type"] == "list" else option["type"]
    if choices := option.get("choices"):
        of_one = " \\| ".join(str(choice) for choice in choices)
    return f"list of {of_one}" if option["type"] == "list" else str(of_one)


def _default(option: dict[str, Any]) -> str:
    import json

    default = option.get("default")
    if isinstance(default, str) and "{{" in default:
        return "computed"
    return f"`{json.dumps(default, ensure_ascii=False)}`" if default not in ("", None) else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
