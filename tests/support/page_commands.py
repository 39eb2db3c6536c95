"""The commands that docs/troubleshooting.md and other pages have people run, for the tests of them."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/troubleshooting.md"
_FIRST_IN_A_ROW = re.compile(r"^\| `(\S+) ", re.MULTILINE)


def commands(page: Path = PAGE) -> list[str]:
    """Each command of a page once. What stands first in a row of a table of docs/troubleshooting.md is one, and
    whatever begins with such a program."""
    programs = set(_FIRST_IN_A_ROW.findall(PAGE.read_text()))
    spans = {span for line in page.read_text().splitlines() for span in line.split("`")[1::2]}
    with_arguments = {span for span in spans if " " in span and not span.endswith("…")}
    return sorted(span for span in with_arguments if span.partition(" ")[0] in programs)
