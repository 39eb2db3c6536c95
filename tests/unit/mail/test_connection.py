"""TLS as it is set up for every connection."""

import ssl
from pathlib import Path

import pytest

from tasks.mail.connection import Endpoint, tls_context
from tests.support.certificates import Authority

VERIFIED = Endpoint("mail.example.org", 993, "tls", 10, True, ())
UNVERIFIED = VERIFIED._replace(ssl_verify=False)


def test_certificates_and_names_are_verified_unless_the_endpoint_says_otherwise() -> None:
    verified, unverified = tls_context(VERIFIED), tls_context(UNVERIFIED)
    assert (verified.verify_mode, verified.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (unverified.verify_mode, unverified.check_hostname) == (ssl.CERT_NONE, False)


def test_the_authorities_are_read_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (_authority(tmp_path / name) for name in ("first", "second"))
    monkeypatch.setenv("SSL_CERT_FILE", str(first.certificate))
    before = tls_context(VERIFIED)
    assert tls_context(VERIFIED._replace(hostname="other.example.org")) is before

    first.certificate.write_bytes(second.certificate.read_bytes())

    assert tls_context(VERIFIED).get_ca_certs() != before.get_ca_certs()


def _authority(folder: Path) -> Authority:
    folder.mkdir()
    return Authority(folder)
