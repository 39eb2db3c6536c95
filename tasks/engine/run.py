"""What the steps of one run share: the lease, the time that is left, and what has been done so far."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from sqlalchemy import Connection

from tasks.counting import count
from tasks.engine import shutdown
from tasks.errors import StorageUnavailableError
from tasks.settings import SyncSettings
from tasks.storage.accounts.leases import renew_lease
from tasks.storage.accounts.rows import Account
from tasks.storage.messages.completeness import Incomplete
from tasks.storage.session import connections_lost, tenant_transaction

# How often a run in the background looks whether another run wants the account.
_BACKGROUND_RENEWAL_SECONDS = 2

# How often a lease is renewed before it would expire, so that one slow renewal does not lose the lease.
_RENEWALS_PER_LEASE = 3


class CutShortError(Exception):
    """The run ends early: its time is used up, or other work goes first.

    What is committed stays, and a later task goes on.
    """


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
    """What was done over all runs of one sync. Each run passes the tally on to the next."""

    folders: dict[str, FolderTally] = field(default_factory=dict)
    failed_folders: dict[str, str] = field(default_factory=dict)
    deleted_with_folders: int = 0
    connect_seconds: float = 0.0
    # By folder id: the UID up to which a full sync has compared the messages. Passed on apart from the other fields,
    # because a worker of an older release would not know this field.
    compared: dict[str, int] = field(default_factory=dict)
    # Only known in the last run, so it is not passed on.
    incomplete: list[Incomplete] = field(default_factory=list)

    def of(self, folder_name: str) -> FolderTally:
        """The tally of one folder, to be added to."""
        return self.folders.setdefault(folder_name, FolderTally())

    def total(self, name: str) -> int:
        """The sum of one figure over all folders."""
        return sum(getattr(folder, name) for folder in self.folders.values())

    @property
    def done(self) -> int:
        """How many messages and changes were stored or applied."""
        return self.deleted_with_folders + sum(map(self.total, ("synced", "updated", "deleted", "quarantined")))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A block in which what is added to the tally counts for the metrics (tasks/counting.py)."""
        before = self._changes()
        try:
            yield
        finally:
            for change, messages in (self._changes() - before).items():
                count("sync", change, amount=messages)

    def _changes(self) -> Counter[str]:
        changes = Counter({name: self.total(name) for name in ("synced", "updated", "deleted", "quarantined")})
        changes["deleted"] += self.deleted_with_folders
        return changes

    def to_json(self) -> dict[str, Any]:
        """The tally as JSON, which `from_json` reads back."""
        return {name: value for name, value in asdict(self).items() if name not in ("compared", "incomplete")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The tally that `to_json` wrote."""
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
    """Does nothing; for runs whose progress nobody looks at."""


@dataclass
class Run:
    """What the steps of one run share.

    Both times are in seconds of time.monotonic(). After `deadline` a run that has stored or applied something begins
    no new batch. At `patience_ends` a run stops waiting for a message that has not arrived.
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
    _lost_before: int = field(default_factory=connections_lost)
    _done_before: int = field(init=False)

    def __post_init__(self) -> None:
        self._done_before = self.tally.done

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[Connection]:
        """A transaction that commits only while this run has the lease. Raises LeaseLostError.

        Raises StorageUnavailableError once a connection was lost: what this run committed last may be missing, and
        nothing that builds on it may be committed. The next run begins at what is stored.
        """
        with tenant_transaction(self.account.tenant_id, durable=durable) as connection:
            if connections_lost() != self._lost_before:
                raise StorageUnavailableError("the connection was lost; what was stored last may be missing")
            yield connection
            # The lease is confirmed last, so that the account's row is locked for a short time only.
            self.confirm_lease(connection)

    def confirm_lease(self, connection: Connection) -> None:
        """Renew the lease in the caller's transaction. Raises LeaseLostError."""
        self._is_wanted = renew_lease(connection, self.account, self.lease_owner, self.settings.lease_seconds)
        self._lease_renewed = time.monotonic()

    @property
    def has_moved(self) -> bool:
        """Whether this run stored, applied or compared anything that the next run need not do again."""
        return self._has_compared or self.progress.messages_done > 0 or self.tally.done > self._done_before

    def note_compared(self, folder_id: str, uid: int) -> None:
        """Note that all messages up to this UID were compared, so that the next run goes on after this UID."""
        self.tally.compared[folder_id] = uid
        self._has_compared = True

    @property
    def renewal_seconds(self) -> float:
        """How often the lease is to be renewed."""
        seconds = self.settings.lease_seconds / _RENEWALS_PER_LEASE
        return min(seconds, _BACKGROUND_RENEWAL_SECONDS) if self.in_background else seconds

    def keep_lease(self) -> None:
        """Renew the lease if the last renewal was long enough ago."""
        if time.monotonic() - self._lease_renewed >= self.renewal_seconds:
            with self.transaction():
                pass

    def check_deadline(self) -> None:
        """Raises CutShortError when the time is used up, the worker stops, or a more urgent run waits for the lease.

        To be called when everything is committed. A run that has done nothing yet goes on when its time is used up,
        because the next run would get no further.
        """
        is_late = time.monotonic() >= self.deadline and self.has_moved
        if is_late or shutdown.is_requested() or (self._is_wanted and not self.is_urgent):
            raise CutShortError

    def show(self, **changes: Any) -> None:
        """Report progress."""
        for name, value in changes.items():
            setattr(self.progress, name, value)
        self.report(self.progress)
