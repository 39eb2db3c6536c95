"""A program on a host that writes one row after another to PostgreSQL, and its ledger, outside of the hosts."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from testinfra.host import Host

from tests.support.ledger import Ledger
from tests.support.site import TENANT, Site, sql, start_code

_WRITE = """
import itertools, socket, time
from sqlalchemy import text
from tasks.errors import StorageUnavailableError
from tasks.storage.session import tenant_transaction
insert = text("INSERT INTO credential (tenant_id, id, kind, ciphertext) VALUES (:tenant, :id, 'password', '')")
ledger = socket.create_connection({ledger!r})
def note(*words):
    ledger.sendall(' '.join(words).encode() + b'\\n')
    assert ledger.recv(1)
for n in itertools.count():
    id_ = f'{name}-{{n}}'
    note('begun', id_)
    try:
        with tenant_transaction({tenant!r}) as connection:
            connection.execute(insert, dict(tenant={tenant!r}, id=id_))
    except StorageUnavailableError:
        continue
    note('queued', id_)
    time.sleep(0.05)
"""


class WriteProbe:
    """What was written, and when PostgreSQL had acknowledged it."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger, self._name = ledger, name

    def acknowledged_since(self, at: float) -> bool:
        """Whether PostgreSQL has acknowledged a row that was begun after that."""
        begun, written = self._ledger.begun, dict(self._ledger.queued)
        return any(begun[name] > at for name in written)

    def longest_pause(self) -> float:
        """Seconds between two acknowledged rows, at most."""
        times = sorted(self._ledger.queued.values())
        return max(later - earlier for earlier, later in pairwise(times))

    def missing(self, site: Site) -> set[str]:
        """The acknowledged rows that PostgreSQL does not have."""
        found = set(sql(site, f"SELECT id FROM credential WHERE id LIKE '{self._name}-%'").split())
        return set(self._ledger.queued) - found


@contextmanager
def probing(host: Host, address: str, name: str) -> Iterator[WriteProbe]:
    """Write from this host, which reaches this machine at `address`, for the block."""
    with Ledger() as ledger:
        start_code(host, _WRITE.format(ledger=(address, ledger.port), tenant=TENANT, name=name))
        yield WriteProbe(ledger, name)
        ledger.is_closed = True
