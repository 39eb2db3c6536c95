"""Faults between hosts."""

from tests.support.hosts.machine import run
from tests.support.hosts.network import Network

_DROP = """\
table bridge {table} {{
    chain forward {{
        type filter hook forward priority filter;
        ip saddr {one} ip daddr {other} drop
        ip saddr {other} ip daddr {one} drop
    }}
}}
"""


def partition(network: Network, one: str, other: str) -> None:
    """Drop every packet between two hosts, without a word to either."""
    addresses = {host.name: host.address for host in network.hosts}
    run("nft", "-f", "-", stdin=_DROP.format(table=network.table, one=addresses[one], other=addresses[other]))


def heal(network: Network) -> None:
    """End all partitions of a network."""
    run("nft", "delete", "table", "bridge", network.table)
