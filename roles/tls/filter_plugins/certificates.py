"""What the names of a certificate look like."""

import ipaddress


def certificate_name(name):
    """`name` as a subject alternative name (RFC 5280 section 4.2.1.6): IP:10.0.0.5 or DNS:db.example.org."""
    try:
        return f"IP:{ipaddress.ip_address(str(name))}"
    except ValueError:
        return f"DNS:{name}"


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self):
        """The filters by name."""
        return {"certificate_name": certificate_name}
