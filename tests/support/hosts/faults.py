"""Faults between hosts."""

from concurrent.futures import ThreadPoolExecutor

from tests.support.hosts.container import Container
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


def cut_power(network: Network, hosts: list[str]) -> None:
    """End every process of these hosts at once, without a word. Unlike in reality what was written to a file, and not
    forced to the disk, survives: the page cache is this machine's.
    """
    containers = [network.container(host) for host in hosts]
    with ThreadPoolExecutor(len(containers)) as pool:
        list(pool.map(Container.kill, containers))
    network.forget_connections()


def restore_power(network: Network, hosts: list[str]) -> None:
    """Boot these hosts at once, and wait until each has."""
    for host in hosts:
        network.container(host).start()
    for host in hosts:
        network.wait(host)
