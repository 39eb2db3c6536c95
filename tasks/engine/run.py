"""One run of a sync: who holds the lease, how much time is left, what has been done so far."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from sqlalchemy import Connection

from tasks.engine import shutdown
from tasks.settings import SyncSettings
from tasks.storage.accounts.leases import renew_lease
from tasks.storage.accounts.rows import Account
from tasks.storage.messages.completeness import Incomplete
from tasks.storage.session import tenant_transaction

# A run in the background looks so often whether the account is wanted.
_BACKGROUND_RENEWAL_SECONDS = 2

# Renewed this many times in a lease's life, so that one slow renewal does not lose it.
_RENEWALS_PER_LEASE = 3


class CutShortError(Exception):
    """The time of this run is used up; what is committed stays, and a fresh task goes on from there."""


@dataclass
class FolderTally:
    """What was done in one folder: messages, and the seconds it took."""

    synced: int = 0
    updated: int = 0
    deleted: int = 0
    quarantined: int = 0
    seconds: float = 0.0


@dataclass
class Tally:
    """What was done over all runs of one sync. It travels from a task to the one that goes on."""

    folders: dict[str, FolderTally] = field(default_factory=dict)
    failed_folders: dict[str, str] = field(default_factory=dict)
    deleted_with_folders: int = 0
    connect_seconds: float = 0.0
    # By the folder's id: up to which UID a full sync has compared the messages. It travels beside the other fields:
    # an older worker would not know it.
    compared: dict[str, int] = field(default_factory=dict)
    # Known at the very end, so it travels nowhere.
    incomplete: list[Incomplete] = field(default_factory=list)

    def of(self, folder_name: str) -> FolderTally:
        """The tally of one folder, to be added to."""
        return self.folders.setdefault(folder_name, FolderTally())

    def total(self, name: str) -> int:
        """The sum of one figure over all folders."""
        return sum(getattr(folder, name) for folder in self.folders.values())

    @property
    def done(self) -> int:
        """All that was stored or applied."""
        return self.deleted_with_folders + sum(map(self.total, ("synced", "updated", "deleted", "quarantined")))

    def to_json(self) -> dict[str, Any]:
        """As JSON; `from_json` reads it back."""
        return {name: value for name, value in asdict(self).items() if name not in ("compared", "incomplete")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """What `to_json` wrote."""
        folders = {name: FolderTally(**tally) for name, tally in data["folders"].items()}
        return cls(**{**data, "folders": folders})


@dataclass
class Progress:
    """How far a sync is, for people: the messages to fetch are known folder by folder."""

    folder: str = ""
    folders_done: int = 0
    folders_total: int = 0
    messages_done: int = 0
    messages_total: int = 0
    messages_synced: int = 0


def report_to_nobody(_: Progress) -> None:
    """Where nobody looks at the progress of a run."""


@dataclass
class Run:
    """What the steps of one run share.

    In seconds of time.monotonic(): after `deadline` a run that did something begins nothing new; at `patience_ends` a
    message that has not arrived is no longer waited for.
    """

    account: Account
    lease_owner: str
    settings: SyncSettings
    deadline: float
    patience_ends: float = math.inf
    full_since: float | None = None
    has_killed: bool = False
    tally: Tally = field(default_factory=Tally)
    progress: Progress = field(default_factory=Progress)
    report: Callable[[Progress], None] = report_to_nobody
    is_urgent: bool = False
    in_background: bool = False
    _is_wanted: bool = False
    _has_compared: bool = False
    _lease_renewed: float = field(default_factory=time.monotonic)
    _done_before: int = field(init=False)

    def __post_init__(self) -> None:
        self._done_before = self.tally.done

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[Connection]:
        """A transaction that commits only while the lease is ours. Raises LeaseLostError."""
        with tenant_transaction(self.account.tenant_id, durable=durable) as connection:
            yield connection
            # Last, so that the account's row is locked for as short as can be.
            self.confirm_lease(connection)

    def confirm_lease(self, connection: Connection) -> None:
        """Renew the lease in the caller's transaction. Raises LeaseLostError."""
        self._is_wanted = renew_lease(connection, self.account, self.lease_owner, self.settings.lease_seconds)
        self._lease_renewed = time.monotonic()

    @property
    def has_moved(self) -> bool:
        """Whether anything was stored, applied or compared that the next run will not have to do again."""
        return self._has_compared or self.progress.messages_done > 0 or self.tally.done > self._done_before

    def note_compared(self, folder_id: str, uid: int) -> None:
        """All messages up to this UID were compared: the next run goes on behind it."""
        self.tally.compared[folder_id] = uid
        self._has_compared = True

    @property
    def renewal_seconds(self) -> float:
        """How often the lease is to be renewed."""
        seconds = self.settings.lease_seconds / _RENEWALS_PER_LEASE
        return min(seconds, _BACKGROUND_RENEWAL_SECONDS) if self.in_background else seconds

    def keep_lease(self) -> None:
        """Renew the lease if it is time to."""
        if time.monotonic() - self._lease_renewed >= self.renewal_seconds:
            with self.transaction():
                pass

    def check_deadline(self) -> None:
        """Raises CutShortError when the time is used up, the worker stops, or a more urgent run is to be let by.

        To be called where all is committed. A run that has done nothing yet is not handed on for its time: the next
        one would come no further.
        """
        is_late = time.monotonic() >= self.deadline and self.has_moved
        if is_late or shutdown.is_requested() or (self._is_wanted and not self.is_urgent):
            raise CutShortError

    def show(self, **changes: Any) -> None:
        """Report progress."""
        for name, value in changes.items():
            setattr(self.progress, name, value)
        self.report(self.progress)
