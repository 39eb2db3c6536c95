"""Certificates of Redis and PostgreSQL: whose they are, and what a play does about those that end."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.support.certificates import Authority
from tests.support.site import ROOT, RemoteMailbox, Site
from tests.support.worker import wait_until

SERVICES = {"redis": ("redis", 6379), "postgresql": ("postgres", 5432)}
CALLED, STATUS = "/run/called.json", "/run/status"
STAND_IN = f"""#!/usr/bin/python3
import json, os, sys
variables = {{name: value for name, value in os.environ.items() if name.startswith("ANSIBLE_")}}
with open("{CALLED}.part", "w") as file:
    json.dump({{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": variables}}, file)
os.rename("{CALLED}.part", "{CALLED}")
with open("{STATUS}") as file:
    sys.exit(int(file.read()))
"""


@pytest.fixture(autouse=True)
def _several_hosts(site: Site) -> None:
    if len(site.names) == 1:
        pytest.skip("all is on one host: nothing leaves it, and there is no TLS")


@pytest.fixture
def mailbox(site: Site) -> RemoteMailbox:
    made = RemoteMailbox(site, f"tls-{time.time_ns() % 10**9}")
    made.deliver(3)
    made.register()
    return made


def shown(site: Site, group: str) -> x509.Certificate:
    """The certificate that the server of a group shows to the first worker's host."""
    protocol, port = SERVICES[group]
    start = "-starttls postgres" if protocol == "postgres" else ""
    address = site.address(site.group(group)[0])
    said = site.first("celery_workers").run(f"openssl s_client {start} -connect {address}:{port} </dev/null")
    begin, end = said.stdout.index("-----BEGIN"), said.stdout.index("-----END")
    return x509.load_pem_x509_certificate(f"{said.stdout[begin:end]}-----END CERTIFICATE-----\n".encode())


def test_a_certificate_near_its_end_is_renewed_and_used(site: Site, mailbox: RemoteMailbox) -> None:
    before = {group: shown(site, group).serial_number for group in SERVICES}
    # Made for 397 days, and now to be renewed 399 days before their end: the new ones are made for longer
    renewal = ("--extra-vars", "tls_renew_before_days=399 tls_certificate_days=450")
    play = site.play("playbooks/certificates.yml", *renewal)
    assert play.status == 0, play.output[-3000:]
    after = {group: shown(site, group).serial_number for group in SERVICES}
    assert all(after[group] != before[group] for group in SERVICES)
    said = site.first("redis").check_output("journalctl -t metabuilder-certificates -o cat --no-pager")
    assert "The certificate of redis is new, and valid for 450 days" in said
    mailbox.sync()
    assert len(mailbox.stored()) == 3
    # Nothing that shows a certificate has to be restarted any more
    again = site.play("site.yml", *renewal)
    show = ("tls", "redis", "postgresql", "monitoring", "log_collection")
    assert [task for task in again.changed_tasks if task.startswith(tuple(f"{role} : " for role in show))] == []


def run_unit(site: Site, name: str) -> None:
    """Start the unit of the timer on a host, which has systemd, and have this machine, with Ansible, do its work.

    In the place of ansible-playbook the host gets a stand-in, which tells how it was called and ends as told.
    """
    host, unit = site.host(name), "metabuilder-certificates-inventory.service"
    program = Path(sys.executable).parent / "ansible-playbook"
    host.check_output(
        f"mkdir -p {program.parent} {ROOT} && rm -f {CALLED} {STATUS} && mkfifo {STATUS} && "
        f"printf %s {shlex.quote(STAND_IN)} >{program} && chmod +x {program} && systemctl start --no-block {unit}"
    )
    try:
        wait_until(lambda: host.file(CALLED).exists, "the unit does not start what it names", 60)
        called = json.loads(host.file(CALLED).content_string)
        done = subprocess.run(
            [program, *called["arguments"]],
            cwd=called["folder"],
            env={**os.environ, **called["environment"], "ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        host.check_output(f"echo {done.returncode} >{STATUS}")
        assert done.returncode == 0, done.stdout[-3000:]
        wait_until(lambda: "ing" not in host.run(f"systemctl is-active {unit}").stdout, "the unit does not end", 60)
        assert host.check_output(f"systemctl show -P Result {unit}") == "success"
    finally:
        host.check_output(f"systemctl stop {unit}; rm -f {program} {CALLED} {STATUS}")


def test_a_timer_renews_them_until_it_is_taken_away(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a host in the place of the control machine, on which systemd need not run
    name = site.group("redis")[0]
    reached = {key: site.variable(name, key) for key in ("ansible_user", "ansible_ssh_common_args")}
    machine = {**reached, "ansible_connection": "ssh", "ansible_host": site.address(name)}
    machine["ansible_python_interpreter"] = "/usr/bin/python3"
    (tmp_path / "vault").write_text("sample")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(tmp_path / "vault"))
    host, timers = site.host(name), "systemctl list-timers --no-legend 'metabuilder-certificates-*'"
    for wanted in ("present", "absent"):
        variables = json.dumps({**machine, "certificates_timer": wanted})
        play = site.play("playbooks/certificates-timer.yml", "--extra-vars", variables)
        assert play.status == 0, play.output[-3000:]
        listed = host.check_output(timers)
        assert ("metabuilder-certificates-inventory.timer" in listed) == (wanted == "present")
        if wanted == "present":
            # Given a certificate that ends soon, in the place of whatever the tests before left
            soon = ("--extra-vars", "tls_renew_before_days=1000 tls_certificate_days=20", "--limit", name)
            play = site.play("playbooks/certificates.yml", *soon)
            assert play.status == 0, play.output[-3000:]
            before = shown(site, "redis").serial_number
            run_unit(site, name)
            said = host.check_output("journalctl -t metabuilder-certificates -o cat --no-pager")
            assert "The certificate of redis is new" in said.partition("valid for 20 days")[2]
            assert shown(site, "redis").serial_number != before


def test_certificates_that_the_operator_brings_are_used_until_they_are_no_more(
    site: Site, mailbox: RemoteMailbox, tmp_path: Path
) -> None:
    # Given an authority of the operator's, and certificates that it signed
    authority = Authority(tmp_path)
    variables = {"tls_ca_file": authority.certificate}
    for group in SERVICES:
        files = authority.issue(group, site.address(site.group(group)[0]))
        variables |= {f"tls_{group}_certificate_file": files.certificate, f"tls_{group}_key_file": files.key}
    options = [part for name, path in variables.items() for part in ("--extra-vars", f"{name}={path}")]
    own = {group: shown(site, group).issuer for group in SERVICES}

    play = site.play("site.yml", *options)
    assert play.status == 0, play.output[-3000:]
    [name] = x509.load_pem_x509_certificate(authority.certificate.read_bytes()).subject.get_attributes_for_oid(
        NameOID.COMMON_NAME
    )
    for group in SERVICES:
        assert shown(site, group).issuer.get_attributes_for_oid(NameOID.COMMON_NAME) == [name]
    mailbox.sync()
    assert len(mailbox.stored()) == 3

    back = site.play("site.yml")
    assert back.status == 0, back.output[-3000:]
    assert {group: shown(site, group).issuer for group in SERVICES} == own
    mailbox.deliver(2, first=4)
    mailbox.sync()
    assert len(mailbox.stored()) == 5
