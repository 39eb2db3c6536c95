"""What the tables share: types, names of constraints, defaults and conditions."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import ARRAY, DateTime, ForeignKeyConstraint, Index, Integer, LargeBinary, MetaData, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

NOW = text("now()")
ZERO = text("0")
TRUE = text("true")
FALSE = text("false")
EMPTY_ARRAY = text("'{}'::text[]")
EMPTY_LIST = text("'[]'::jsonb")

# A message has its numbers on an IMAP server, or its unique-id on a POP3 server.
NUMBERED = (
    "CASE WHEN uidl IS NULL THEN uidvalidity IS NOT NULL AND imap_uid IS NOT NULL "
    "ELSE uidvalidity IS NULL AND imap_uid IS NULL END"
)


class Base(DeclarativeBase):
    """The base class of all tables."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "fk": "%(table_name)s_%(referred_table_name)s_fkey",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text(),
        int: Integer(),
        bytes: LargeBinary(),
        datetime: DateTime(timezone=True),
        list[str]: ARRAY(Text()),
        list[dict[str, str]]: JSONB(),
        dict[str, Any]: JSONB(),
    }


def one_of(column: str, values: Iterable[str]) -> str:
    """The condition that a column has one of these values, or NULL."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def in_its_folder() -> ForeignKeyConstraint:
    """The key of the folder that a row is in, which is a folder of the row's account."""
    return ForeignKeyConstraint(
        ["tenant_id", "email_client_id", "folder_id"],
        ["email_folder.tenant_id", "email_folder.email_client_id", "email_folder.id"],
        ondelete="CASCADE",
    )


def one_uidl_an_account(table: str) -> Index:
    """The index that keeps the unique-ids of an account apart."""
    # A partial index, so that the planner uses it for look-ups by unique-id only (see the first migration).
    columns = ("tenant_id", "email_client_id", "uidl")
    return Index(f"{table}_uidl_key", *columns, unique=True, postgresql_where=text("uidl IS NOT NULL"))
