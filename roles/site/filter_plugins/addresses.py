"""Host names to addresses, as the control machine resolves them."""

import ipaddress
import socket

from ansible.errors import AnsibleFilterError


def addresses(names):
    """The IP addresses of `names` (names, addresses or networks in CIDR notation), sorted, each once.

    Raises AnsibleFilterError that names what does not resolve.
    """
    found = set()
    for name in [names] if isinstance(names, str) else names:
        found.update(_resolve(str(name)))
    return sorted(found)


def networks(names):
    """As `addresses`, each with its prefix length: 10.0.0.5/32, as pg_hba.conf wants it."""
    return [str(ipaddress.ip_network(address, strict=False)) for address in addresses(names)]


def ip_version(values, version):
    """Those of `values` that are of IP version 4 or 6."""
    return [value for value in values if ipaddress.ip_network(value, strict=False).version == version]


def site_address_of(hostvars):
    """The `site_address` of another host, from its variables: there the default of the role may not be visible."""
    for name in ("site_address", "ansible_host", "inventory_hostname"):
        if name in hostvars:
            return hostvars[name]
    raise AnsibleFilterError("no such host in the inventory")


def _resolve(name):
    try:
        return [str(ipaddress.ip_network(name, strict=False)) if "/" in name else str(ipaddress.ip_address(name))]
    except ValueError:
        pass
    try:
        return [entry[4][0] for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise AnsibleFilterError(
            f"{name} does not resolve on the control machine ({error}): "
            "give its address, if it is a host of the site as its site_address"
        ) from error


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self):
        """The filters by name."""
        return {
            "addresses": addresses,
            "networks": networks,
            "ip_version": ip_version,
            "site_address_of": site_address_of,
        }
