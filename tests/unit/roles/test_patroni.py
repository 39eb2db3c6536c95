"""Debian 12's Patroni, without the fault that gives a former leader the lead back (roles/postgresql)."""

import runpy
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit.roles.plugins import ROLES


class Leader:
    """The leader that this host read last, with the lease of its key."""

    def __init__(self, session: str) -> None:
        self.session = session


class Etcd:
    """A store with one key. It answers as etcd does (API v3, Txn): whether what was compared held."""

    def __init__(self, holder: str | None) -> None:
        self.holder, self.lease = holder, "old"

    def txn(self, compare: dict[str, str], success: dict[str, Any], _retry: object) -> bool:
        assert compare["target"] == "VALUE"
        if is_as_compared := self.holder == compare["value"]:
            self.lease = success["request_put"]["lease"]
        return is_as_compared

    def put(self, _key: str, value: str, lease: str, *, create_revision: int, retry: object) -> bool:
        assert (create_revision, retry) == (0, "retry")
        if is_free := self.holder is None:
            self.holder, self.lease = value, lease
        return is_free


class Dcs:
    """Stands in for Patroni's Etcd3: the parts that the function uses."""

    leader_path, _name, cluster = "/leader", "own", SimpleNamespace(leader=Leader("old"))

    def __init__(self, etcd: Etcd, lease: str) -> None:
        self._client, self._lease = etcd, lease
        self._retry = SimpleNamespace(copy=lambda: "retry")

    def _do_refresh_lease(self, force: bool) -> None:
        assert force

    def _run_and_handle_exceptions(self, method: Any, *arguments: Any, retry: object) -> Any:
        return method(*arguments, *(["retry"] if method.__name__ == "_write_own_key" else []))


@pytest.fixture
def update_leader(monkeypatch: pytest.MonkeyPatch) -> Any:
    etcd3 = ModuleType("patroni.dcs.etcd3")
    etcd3.__dict__.update(
        Leader=Leader, base64_encode=lambda text: text, catch_return_false_exception=lambda function: function
    )
    for name, content in {
        "patroni": {},
        "patroni.__main__": {"main": None},
        "patroni.version": {"__version__": "3.0.2"},
        "patroni.dcs": {"etcd3": etcd3},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return runpy.run_path(str(ROLES / "postgresql/files/patroni-of-debian-12.py"))["_update_leader"]


@pytest.mark.parametrize(
    ("holder", "leads"), [("other", False), ("own", True), (None, True)], ids=["taken", "own", "free"]
)
def test_a_leader_with_a_new_lease_takes_no_lead_that_another_host_has(
    update_leader: Any, holder: str | None, leads: bool
) -> None:
    etcd = Etcd(holder)
    assert update_leader(Dcs(etcd, lease="new")) == leads
    assert (etcd.holder, etcd.lease) == (("own", "new") if leads else ("other", "old"))


def test_a_lease_that_was_renewed_keeps_its_key(update_leader: Any) -> None:
    etcd = Etcd("own")
    assert update_leader(Dcs(etcd, lease="old"))
    assert (etcd.holder, etcd.lease) == ("own", "old")
