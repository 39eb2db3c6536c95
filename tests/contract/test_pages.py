"""The pages lead somewhere: each link to a file and a heading that exist, each file of the code by its path."""

import re
from pathlib import Path

import pytest

from native.state import ROOT

PAGES = sorted([*Path(ROOT).glob("*.md"), *Path(ROOT).glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")
# `engine/send/outbox.py` for short, or `tasks/engine/send/outbox.py`.
FILE = re.compile(
    r"`((?:tasks|manage|native|tests|roles|engine|mail|storage|runtime)/[\w./-]+\.(?:py|yml|tsv|json|eml))`"
)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as the platforms that show it make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_leads_to_what_exists(page: Path) -> None:
    text = page.read_text()
    lost = []
    for path, anchor in LINK.findall(text):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            lost.append(f"{path}#{anchor}")
    for path in FILE.findall(text):
        if not re.search("NAME|NNNN", path) and not any(
            (Path(ROOT) / folder / path).exists() for folder in ("", "tasks")
        ):
            lost.append(path)
    assert lost == []
