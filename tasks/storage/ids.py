"""Identifiers of new rows."""

from uuid_utils import uuid7


def new_id() -> str:
    """A UUIDv7 (RFC 9562 section 5.7): grows with time, so new rows land together in an index."""
    return str(uuid7())
