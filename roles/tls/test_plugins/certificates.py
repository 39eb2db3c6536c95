"""Whether a certificate still does."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID


def shows_current_certificate(slurped, authority, names, days, keys):
    """Whether `authority` (PEM) signed what was slurped, if anything, for just `names` and for `days` to come.

    The service's own `names` are among them, if it has any.
    `keys` has the SHA-256 of each service's public key (its SubjectPublicKeyInfo), `aa:bb:...`, where it is known.
    """
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(slurped.get("content", "")))
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    except (ValueError, TypeError, InvalidSignature):
        return False
    if certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=days):
        return False
    if _fingerprint(certificate) != keys.get(slurped["item"]["name"], _fingerprint(certificate)):
        return False
    return _names(certificate) == {str(name).lower() for name in [*names, *slurped["item"].get("names", ())]}


def _fingerprint(certificate):
    encoded = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest().hex(":")


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
