"""The commands that docs/troubleshooting.md has people run, for the tests that run them."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/troubleshooting.md"
_FIRST_IN_A_ROW = re.compile(r"^\| `(\S+) ", re.MULTILINE)


def commands() -> list[str]:
    """Each command once. What stands first in a row of a table is one, and whatever begins with such a program."""
    text = PAGE.read_text()
    programs = set(_FIRST_IN_A_ROW.findall(text))
    spans = {span for line in text.splitlines() for span in line.split("`")[1::2]}
    with_arguments = {span for span in spans if " " in span and not span.endswith("…")}
    return sorted(span for span in with_arguments if span.partition(" ")[0] in programs)
