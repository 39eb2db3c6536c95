"""Removes rows of all tenants that nobody needs any more, in small transactions."""

from typing import NamedTuple

from sqlalchemy import text

from tasks.storage.session import unbound_transaction

# A blob younger than this may belong to a message that is being stored.
_BLOB_AGE_SECONDS = 24 * 3600
_BLOBS_PER_STEP = 5_000
_LETTERS_PER_STEP = 1_000

_LEASES = text("SELECT release_expired_leases()")
_BLOBS = text(
    """
    SELECT next_tenant_id, next_sha256, deleted
    FROM delete_unreferenced_blobs(:tenant_id, :sha256, :max_blobs, :age_seconds)
    """
)
_LETTERS = text("SELECT delete_old_dead_letters(:max_letters, :age_seconds)")


class BlobStep(NamedTuple):
    """How far a walk over all blobs has come (None: to the end), and how many blobs this step deleted."""

    tenant_id: str | None
    sha256: str | None
    deleted: int


def release_expired_leases() -> int:
    """Clear expired leases, which killed workers left behind. Returns how many."""
    with unbound_transaction() as connection:
        return int(connection.execute(_LEASES).scalar_one())


def delete_unreferenced_blobs(tenant_id: str, sha256: str) -> BlobStep:
    """Look at the next few thousand blobs after this tenant and
    SHA-256, and delete blobs that no attachment refers to."""
    values = {"tenant_id": tenant_id, "sha256": sha256}
    limits = {"max_blobs": _BLOBS_PER_STEP, "age_seconds": _BLOB_AGE_SECONDS}
    with unbound_transaction() as connection:
        return BlobStep._make(connection.execute(_BLOBS, {**values, **limits}).one())


def delete_old_dead_letters(age_days: int) -> int:
    """Delete some dead letters that failed last more than `age_days` ago, with their arguments.

    Returns how many; 0: no more.
    """
    values = {"max_letters": _LETTERS_PER_STEP, "age_seconds": age_days * 24 * 3600}
    with unbound_transaction() as connection:
        return int(connection.execute(_LETTERS, values).scalar_one())
