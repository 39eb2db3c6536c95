"""Names as firewalls, pg_hba.conf and certificates want them."""

import pytest
from ansible.errors import AnsibleFilterError

from tests.unit.roles.plugins import load

filters = load("site/filter_plugins/addresses.py").FilterModule().filters()
certificate_name = load("tls/filter_plugins/certificates.py").FilterModule().filters()["certificate_name"]


@pytest.mark.parametrize(
    ("names", "addresses", "networks"),
    [
        ("10.0.0.5", ["10.0.0.5"], ["10.0.0.5/32"]),
        (["10.0.0.5", "10.0.0.4", "10.0.0.5"], ["10.0.0.4", "10.0.0.5"], ["10.0.0.4/32", "10.0.0.5/32"]),
        (["10.1.2.3/16", "fd00:0::1"], ["10.1.0.0/16", "fd00::1"], ["10.1.0.0/16", "fd00::1/128"]),
        ([], [], []),
    ],
)
def test_addresses_and_networks_are_written_in_one_way(
    names: str | list[str], addresses: list[str], networks: list[str]
) -> None:
    assert filters["addresses"](names) == addresses
    assert filters["networks"](names) == networks


def test_a_name_is_resolved_and_one_that_does_not_resolve_is_named() -> None:
    assert set(filters["addresses"](["localhost"])) & {"127.0.0.1", "::1"}
    with pytest.raises(AnsibleFilterError, match=r"nowhere\.invalid does not resolve .* site_address"):
        filters["addresses"](["10.0.0.1", "nowhere.invalid"])


def test_addresses_are_told_apart_by_version() -> None:
    values = ["10.0.0.5", "10.1.2.3/16", "fd00::1", "fd00::1/64"]
    assert filters["ip_version"](values, 4) == values[:2]
    assert filters["ip_version"](values, 6) == values[2:]


def test_a_host_is_at_its_address_or_as_ansible_reaches_it() -> None:
    names = {"site_address": "10.0.0.1", "ansible_host": "10.0.0.2", "inventory_hostname": "one"}
    assert filters["site_address_of"](names) == "10.0.0.1"
    assert filters["site_address_of"]({**names, "site_address": "db.example.org"}) == "db.example.org"
    del names["site_address"]
    assert filters["site_address_of"](names) == "10.0.0.2"
    assert filters["site_address_of"]({"inventory_hostname": "one"}) == "one"
    with pytest.raises(AnsibleFilterError, match="no such host"):
        filters["site_address_of"]({})


@pytest.mark.parametrize(
    ("name", "written"), [("10.0.0.5", "IP:10.0.0.5"), ("fd00:0::1", "IP:fd00::1"), ("db.example", "DNS:db.example")]
)
def test_a_certificate_names_addresses_and_hosts(name: str, written: str) -> None:
    assert certificate_name(name) == written
