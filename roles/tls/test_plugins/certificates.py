"""Whether a certificate still does."""

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID


def shows_current_certificate(slurped, authority, names, days):
    """Whether `authority` (PEM) signed what was slurped, if anything, for just `names` and for `days` to come."""
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(slurped.get("content", "")))
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    except (ValueError, TypeError, InvalidSignature):
        return False
    if certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=days):
        return False
    return _names(certificate) == {str(name).lower() for name in names}


def _names(certificate):
    extension = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    dns = extension.get_values_for_type(x509.DNSName)
    addresses = extension.get_values_for_type(x509.IPAddress)
    return {f"dns:{name}".lower() for name in dns} | {f"ip:{address}" for address in addresses}


class TestModule:
    """What Ansible looks for in this file."""

    def tests(self):
        """The tests by name."""
        return {"shows_current_certificate": shows_current_certificate}
