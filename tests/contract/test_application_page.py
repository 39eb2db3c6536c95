"""docs/application.md says what each column of the application's views means."""

import re

from sqlalchemy import create_engine, text

from native.state import ROOT
from tests.conftest import Database

PAGE = ROOT / "docs" / "application.md"
COLUMNS = text(
    "SELECT table_name, column_name FROM information_schema.columns "
    "WHERE table_schema = 'public' AND table_name LIKE '%\\_view'"
)


def named(view: str) -> set[str]:
    """The columns that the page's table of a view names, in the first column of that table."""
    [section] = re.findall(rf"^### `{view}`\n\n(.*?)\n\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return {name for row in section.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_the_page_names_every_column_of_the_views(database: Database) -> None:
    columns: dict[str, set[str]] = {}
    with create_engine(database.app_url).connect() as connection:
        for view, column in connection.execute(COLUMNS):
            columns.setdefault(view, set()).add(column)
    assert set(columns) == {"folder_view", "message_view", "attachment_view"}
    assert columns == {view: named(view) for view in columns}
