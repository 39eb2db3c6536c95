"""Fields of the log: the page has those that there are, no line asks for another, and the journal may take them."""

import ast
import re
from collections.abc import Iterator

from native.state import ROOT
from tasks.log_fields import Field

PAGE = (ROOT / "docs" / "operations.md").read_text()
UNIT = (ROOT / "templates" / "systemd" / "celery-worker.service").read_text()


def asked_for() -> Iterator[str]:
    """The names in `extra={...}` and `logged_with(...=...)` in the code of the tasks."""
    for file in (ROOT / "tasks").rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
            if isinstance(extra := named.get("extra"), ast.Dict):
                yield from (ast.literal_eval(key) for key in extra.keys if key)
            if isinstance(call.func, ast.Name) and call.func.id == "logged_with":
                yield from named


def test_the_page_has_each_field_with_its_name_in_the_journal() -> None:
    table = re.findall(r"(?m)^\| `(\w+)` \| `(METABUILDER_\w+)` \| \S", PAGE)
    assert table == [(field.value, field.in_journal) for field in Field]


def test_every_field_that_code_sets_is_one_of_them() -> None:
    names = {*asked_for()}
    assert names <= {*Field}
    assert {"account", "folder", "uid", "outbox"} <= names


def test_the_journal_takes_a_burst_of_a_worker() -> None:
    limits = dict(re.findall(r"(?m)^(LogRateLimit\w+)=(.*)$", UNIT))
    assert limits == {"LogRateLimitIntervalSec": "30s", "LogRateLimitBurst": "200000"}
    assert f"{int(limits['LogRateLimitBurst']):,} lines of a worker in 30 s" in PAGE
