"""The network of the scenario's hosts, which can be switched off."""

import os

import pytest

from tests.support.hosts.network import Network, names


@pytest.fixture
def network() -> Network:
    """The network whose hosts Molecule booted."""
    if os.environ.get("MOLECULE_HOSTS"):
        pytest.skip("hosts of one's own are not switched off")
    [name] = [name for name in names() if {host.name for host in Network(name).hosts} >= {"ha1", "ha2", "ha3"}]
    return Network(name)
