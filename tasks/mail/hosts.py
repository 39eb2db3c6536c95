"""Checks the addresses of a mail server's name, and connects to one of them.

Anybody may enter an account: without a check, a name like `redis.internal` or `169.254.169.254` would make a worker
connect to servers that only the worker can reach, and so would a public address of its own machine. So a name is
resolved once, each address is checked, and the connection is made to an address that passed. A name that resolves to
another address a moment later (DNS rebinding) changes nothing.

Addresses are judged as the resolver gives them, so every way of writing one (decimal, octal, hexadecimal, mapped into
IPv6) is the same address here. The tables are those of IANA's special-purpose registries (RFC 6890), and not Python's
`is_global`, which differs from version to version.
"""

import logging
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import cast

from tasks.errors import HostNotAllowedError, MailServerUnavailableError, UnknownHostError

logger = logging.getLogger(__name__)

IpAddress = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host, unspecified
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, the metadata services of clouds among them
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4, withdrawn
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "2001::/23",  # protocol assignments, Teredo and ORCHID among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, withdrawn: it carries an IPv4 address to wherever that leads
        "3fff::/20",  # documentation
    )
)
# The public part of IPv6; loopback, link-local, unique local and multicast addresses lie outside.
_PUBLIC_IPV6 = IPv6Network("2000::/3")
# Errors of getaddrinfo(3) that are about the name; its other errors are about the name server or this host.
_NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY, socket.EAI_FAMILY, socket.EAI_SERVICE)
# A name may have any number of addresses, each of which may use up the whole timeout.
_MAX_ADDRESSES_TRIED = 4
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last 32 bits


def connect(hostname: str, port: int, timeout: float, allowed: tuple[Network, ...]) -> socket.socket:
    """A TCP connection to an address of `hostname` that is public or in an allowed network. `timeout` is in seconds.

    Raises HostNotAllowedError where no address may be connected to, UnknownHostError, MailServerUnavailableError
    where the name server does not answer, and OSError where no address takes the connection.
    """
    failure: OSError | None = None
    for address in resolve(hostname, allowed)[:_MAX_ADDRESSES_TRIED]:
        try:
            return socket.create_connection((str(address), port), timeout)
        except OSError as error:
            failure = error
    assert failure is not None
    raise failure


def resolve(hostname: str, allowed: tuple[Network, ...]) -> list[IpAddress]:
    """The addresses of `hostname` that may be connected to, at least one. Raises what `connect` raises."""
    found = _look_up(hostname)
    permitted = [address for address in found if is_permitted(address, allowed)]
    if not permitted:
        # The addresses are only logged: the person who entered the
        # name must not learn about our network from the error.
        logger.warning("%s is not connected to: it resolves to %s", hostname, ", ".join(map(str, found)))
        raise HostNotAllowedError(hostname)
    return permitted


def is_permitted(address: IpAddress, allowed: tuple[Network, ...]) -> bool:
    """Whether the address is public and not this machine's own, or in one of the allowed networks."""
    address = _unwrapped(address)
    if any(address in network for network in allowed):
        return True
    if address.version == 6 and address not in _PUBLIC_IPV6:
        return False
    return not any(address in network for network in _NOT_PUBLIC) and not _is_own(address)


def _is_own(address: IpAddress) -> bool:
    """Whether the address is this machine's own: packets to it would leave from the same address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))  # a UDP socket: this sends nothing
        except OSError:  # no route to the address
            return False
        return ip_address(probe.getsockname()[0]) == address


def _look_up(hostname: str) -> list[IpAddress]:
    try:
        answers = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_NAME:
            raise UnknownHostError(hostname) from error
        raise MailServerUnavailableError(f"{hostname}: the name server does not answer ({error.strerror})") from error
    except ValueError as error:  # a label is too long or empty, or there is a NUL
        raise UnknownHostError(hostname) from error
    return list(dict.fromkeys(ip_address(cast(str, answer[4][0])) for answer in answers))


def _unwrapped(address: IpAddress) -> IpAddress:
    """The IPv4 address to which an IPv6 address leads (mapped, NAT64), else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
