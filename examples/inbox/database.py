"""Transactions in PostgreSQL, each bound to one tenant."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, text

# Who looks at the page. An application of many tenants knows both from the login of its user.
TENANT = os.environ["INBOX_TENANT"]
USER = os.environ["INBOX_USER"]

# The role `metabuilder`. Parameters are people's mail, so errors do not show them.
engine = create_engine(os.environ["DATABASE_URL"], pool_pre_ping=True, hide_parameters=True)


@contextmanager
def transaction() -> Iterator[Connection]:
    """A transaction that sees the rows of the tenant and no others. It commits at the end of the block."""
    with engine.begin() as connection:
        connection.execute(text("SELECT set_config('metabuilder.tenant_id', :tenant, true)"), {"tenant": TENANT})
        yield connection


def rows(connection: Connection, query: str, **values: object) -> list[dict[str, Any]]:
    """What a query gives. In it, `:user` is the user who looks at the page."""
    return [dict(row) for row in connection.execute(text(query), {"user": USER, **values}).mappings()]
