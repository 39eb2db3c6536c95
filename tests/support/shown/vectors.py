"""The table of hostile HTML, tests/fixtures/html/vectors.tsv: what it does unsanitised, in words, and the HTML.

`trips` is what a page that shows the HTML as it came notices:

- runs: a script runs; requests: something is asked of the application or of a host that no image may come from;
- covers: something of it is seen or hit outside of its box; moves: it is outside in the document, or left the page;
- styles: it meets selectors or names of the application;
- overflows: it is larger than its box, as honest mail may be, so the box has to clip;
- "-": nothing in Chromium; it is for other browsers, or what it does cannot be seen from outside.

In the HTML HIT is a script that tells the page around that it ran, BASE64 a page with it, and `leak/` the beginning
of an address that nothing may ask for. Controls are written as their pictures (␉ for a tab).
"""

import base64
import csv
from pathlib import Path
from typing import NamedTuple

_TABLE = Path(__file__).parents[2] / "fixtures" / "html" / "vectors.tsv"
_CONTROLS = {0x2400 + code: chr(code) for code in range(0x20)}


class Vector(NamedTuple):
    """A row of the table."""

    trips: str
    what: str
    written: str

    def html(self, number: int) -> str:
        """The HTML that says `number` when it runs or asks for something."""
        script = f"top.postMessage({number},`*`)"
        page = base64.b64encode(f"<script>{script}</script>".encode()).decode()
        html = self.written.replace("HIT", script).replace("NUMBER", str(number)).replace("BASE64", page)
        return html.replace("leak/", f"leak/{number}/").replace("leak\\", f"leak\\{number}\\").translate(_CONTROLS)


def _read() -> list[Vector]:
    with _TABLE.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return [Vector(*row) for row in rows]


VECTORS = _read()
