"""Which certificates of services are renewed."""

import base64
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from native.dovecot import TlsFiles
from tests.support.certificates import Authority
from tests.unit.roles.plugins import load

NAMES = ["DNS:db.example"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def fingerprint(files: TlsFiles) -> str:
    """Of the public half of a key, as community.crypto.openssl_privatekey returns it."""
    key = load_pem_private_key(files.key.read_bytes(), None).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest().hex(":")


def is_current(
    files: TlsFiles, authority: Authority, keys: dict[str, str], names: list[str] = NAMES, own: tuple[str, ...] = ()
) -> Any:
    service = {"name": "redis", **({"names": list(own)} if own else {})}
    slurped = {"content": base64.b64encode(files.certificate.read_bytes()), "item": service}
    trusted = authority.certificate.read_text()
    return load("tls/test_plugins/certificates.py").shows_current_certificate(slurped, trusted, names, 1, keys)


def test_one_for_its_names_its_key_and_some_time_is_kept(authority: Authority) -> None:
    files = authority.issue("redis", "db.example", timedelta(days=9))
    assert is_current(files, authority, {"redis": fingerprint(files)})
    assert is_current(files, authority, {}), "in check mode keys are not looked at"


def test_one_of_another_key_name_or_authority_or_too_old_is_renewed(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("redis", "db.example", timedelta(days=9))
    other = authority.issue("other", "db.example")
    (tmp_path / "second").mkdir()
    assert not is_current(files, authority, {"redis": fingerprint(other)})
    assert not is_current(files, authority, {}, ["DNS:elsewhere.example"])
    assert not is_current(files, authority, {}, own=("DNS:another.example",))
    assert is_current(files, authority, {}, [], own=("DNS:db.example",))
    assert not is_current(files, Authority(tmp_path / "second"), {})
    assert not is_current(authority.issue("old", "db.example", timedelta(hours=1)), authority, {})
    assert not load("tls/test_plugins/certificates.py").shows_current_certificate(
        {"failed": True}, authority.certificate.read_text(), NAMES, 1, {}
    )
