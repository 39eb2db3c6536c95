"""The pages lead somewhere: each link to a file and a heading that exist, each file of the code by its path."""

import re
from pathlib import Path

import pytest

from native.state import ROOT

PAGES = sorted([*Path(ROOT).glob("*.md"), *Path(ROOT).glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")
# `engine/send/outbox.py` for short, or `tasks/engine/send/outbox.py`.
FILE = re.compile(
    r"`((?:tasks|manage|native|tests|roles|engine|mail|storage|runtime)/(?!\S*(?:NAME|NNNN))[\w./-]+\.(?:py|yml|tsv|json))`"
)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as the platforms that show it make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def leads(page: Path, path: str, anchor: str) -> bool:
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in headings(target))


def is_file(path: str) -> bool:
    return (Path(ROOT) / path).exists() or (Path(ROOT) / "tasks" / path).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_leads_to_what_exists(page: Path) -> None:
    text = page.read_text()
    lost = [f"{path}#{anchor}" for path, anchor in LINK.findall(text) if not leads(page, path, anchor)]
    assert lost + [path for path in FILE.findall(text) if not is_file(path)] == []
