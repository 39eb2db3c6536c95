"""Which addresses a name may stand for, however they are written; the one checked is the one connected to."""

import socket
import subprocess
import sys
from ipaddress import ip_address, ip_network

import pytest

from native.state import ROOT
from tasks.errors import HostNotAllowedError, MailServerUnavailableError, UnknownHostError
from tasks.mail.hosts import connect, is_permitted, resolve
from tests.conftest import unavailable

PUBLIC = ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808"]
INSIDE = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.168.1.1", "198.18.0.1", "203.0.113.9", "224.0.0.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
    "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
]  # fmt: skip
# What getaddrinfo takes for 127.0.0.1, 10.0.0.1 and 169.254.169.254.
OTHER_FORMS = [
    "2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.1.", "0",
    "10.1", "012.0.0.1", "0xa000001", "2852039166", "0xA9FEA9FE",
    "[::1]", "::ffff:7f00:1", "0:0:0:0:0:ffff:127.0.0.1", "localhost", "LOCALHOST", "localhost.",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_permitted(address: str) -> None:
    assert is_permitted(ip_address(address), ())


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_inside_or_nowhere_is_not(address: str) -> None:
    assert not is_permitted(ip_address(address), ())


@pytest.mark.parametrize("hostname", OTHER_FORMS)
def test_no_way_of_writing_it_gets_around_the_check(hostname: str) -> None:
    with pytest.raises((HostNotAllowedError, UnknownHostError)):
        connect(hostname, 143, 1, ())


@pytest.mark.parametrize("hostname", ["2130706433", "0x7f.1", "0177.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_the_other_forms_do_resolve_to_what_is_inside(hostname: str) -> None:
    with pytest.raises(HostNotAllowedError):
        resolve(hostname, ())


def test_an_allowed_network_permits_its_addresses_also_mapped() -> None:
    allowed = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/64"))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00:1::5"):
        assert is_permitted(ip_address(address), allowed), address
    for address in ("10.2.0.1", "::ffff:10.2.0.1", "fd00:2::5", "127.0.0.1"):
        assert not is_permitted(ip_address(address), allowed), address


def test_a_public_address_of_this_machine_is_inside_too() -> None:
    """In a network of its own, in which the machine has such addresses."""
    script = (
        "ip link set lo up; ip addr add 9.9.9.10/32 dev lo; ip addr add 2620:fe::10/128 dev lo nodad;"
        f"{sys.executable} -c '"
        "import ipaddress as i; from tasks.mail.hosts import is_permitted;"
        "n = i.ip_network;"
        'own = ("9.9.9.10", "2620:fe::10", "::ffff:9.9.9.10", "64:ff9b::909:90a");'
        'print([is_permitted(i.ip_address(a), ()) for a in (*own, "9.9.9.9", "2620:fe::fe")],'
        ' [is_permitted(i.ip_address(a), (n("9.9.9.0/24"), n("2620:fe::/48"))) for a in own])'
        "'"
    )
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        unavailable(f"no network of its own: {done.stderr.strip()}")
    assert done.stdout.strip() == f"{[False] * 4 + [True] * 2} {[True] * 4}", done.stderr


@pytest.mark.parametrize("hostname", ["mail.invalid", "", "a" * 64, ".", "a..b", "nul\0.example.org"])
def test_what_is_no_name_is_an_unknown_host(hostname: str) -> None:
    with pytest.raises(UnknownHostError):
        resolve(hostname, ())


def answers(monkeypatch: pytest.MonkeyPatch, *rounds: list[str]) -> list[str]:
    """Makes the resolver give these addresses, one round a call; what was asked for. No name server of ours lies."""
    asked: list[str] = []
    left = list(rounds)

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        if host[0].isdigit():
            return real(host, *_, **__)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in left.pop(0)]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_that_resolves_otherwise_a_moment_later_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a server on an allowed address, and a name that is that address once and the inside from then on
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.2", 0)) as inside:
        inside.settimeout(0.2)
        asked = answers(monkeypatch, ["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"])

        # When it is connected to
        with connect("rebinding.example", server.getsockname()[1], 2, (ip_network("127.0.0.1/32"),)) as connection:
            # Then by the address that was checked: the name was looked up once
            assert connection.getpeername()[0] == "127.0.0.1"
        assert asked.count("rebinding.example") == 1
        with pytest.raises(TimeoutError):
            inside.accept()


def test_of_several_addresses_only_those_that_may_be_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, ["127.0.0.2", "169.254.169.254", "127.0.0.1"])
    allowed = (ip_network("127.0.0.1/32"),)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        connect("two.example", server.getsockname()[1], 2, allowed) as connection,
    ):
        assert connection.getpeername()[0] == "127.0.0.1"
    assert "169.254.169.254" not in asked


def test_the_refusal_tells_the_log_and_not_the_account_what_the_name_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers(monkeypatch, ["10.20.30.40"])
    with pytest.raises(HostNotAllowedError) as refusal:
        connect("inside.example", 143, 1, ())
    assert "inside.example" in str(refusal.value)
    assert "MAIL_ALLOWED_NETWORKS" in str(refusal.value)
    assert "10.20.30.40" not in str(refusal.value)
    assert "10.20.30.40" in caplog.text


def test_a_name_server_that_is_silent_is_a_passing_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with pytest.raises(MailServerUnavailableError, match="name server"):
        resolve("mail.example", ())
