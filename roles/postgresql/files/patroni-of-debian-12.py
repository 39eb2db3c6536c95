#!/usr/bin/python3
"""Patroni of Debian 12 (3.0.2), without a fault that loses commits: the unit patroni.service runs it instead.

A leader that was cut off from etcd still believes, from what it read last, that the lead is its own. When the network
is back, it makes a new lease and writes its name into the leader's key, whoever has that by then: the host that took
its place is demoted, and what it committed meanwhile is gone. Patroni 3.0.3 mended that (its pull requests 2689 and
2693): the key is written only where it still has this host's name, or where there is none.
"""

import sys

from patroni.__main__ import main
from patroni.dcs import etcd3
from patroni.version import __version__


@etcd3.catch_return_false_exception
def _update_leader(self):
    """Renew the lease of the leader's key; whether this host leads."""
    retry = self._retry.copy()

    def retrying(*args, **kwargs):
        return retry(*args, **kwargs, retry=retry)

    self._run_and_handle_exceptions(self._do_refresh_lease, True, retry=retrying)
    if not self._lease:
        return False
    leader = self.cluster and self.cluster.leader
    if isinstance(leader, etcd3.Leader) and leader.session == self._lease:
        return True
    return bool(self._run_and_handle_exceptions(_write_own_key, self, retry=retrying))


def _write_own_key(self, retry):
    key, name = etcd3.base64_encode(self.leader_path), etcd3.base64_encode(self._name)
    is_own = {"key": key, "target": "VALUE", "value": name}
    written = {"request_put": {"key": key, "value": name, "lease": self._lease}}
    return self._client.txn(is_own, written, retry) or self._client.put(
        self.leader_path, self._name, self._lease, create_revision=0, retry=retry
    )


if __name__ == "__main__":
    if __version__ == "3.0.2":
        etcd3.Etcd3._update_leader = _update_leader  # noqa: SLF001 - there is no other way in
    sys.exit(main())
