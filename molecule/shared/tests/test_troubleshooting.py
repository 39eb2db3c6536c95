"""The commands of docs/troubleshooting.md are run on a host: each exists, knows its options, and names real units."""

import re
import time

import pytest

from tests.support.page_commands import commands
from tests.support.site import TENANT, RemoteMailbox, Site, run_each

# Commands that are not run, and why.
NOT_RUN = {
    "metabuilder account password ACCOUNT": "waits for a password",
    "metabuilder dlq retry --all": "queues again what other tests left",
    "timedatectl set-ntp true": "a container has the clock of its machine",
    "journalctl -u mail-watcher": "hosts have the unit only if asked for",
    "systemctl status mail-watcher": "hosts have the unit only if asked for",
    "openssl x509 -noout -subject -enddate -in /etc/metabuilder/tls/NAME.crt": "one host has no certificates",
    "journalctl --user -u 'metabuilder-certificates-*'": "of the control machine",
    **dict.fromkeys(
        ["journalctl -u redis-sentinel", "systemctl status redis-sentinel 'redis-server@*'"],
        "Redis on one host has no Sentinel",
    ),
    **dict.fromkeys(
        [
            "df -h /var/lib/metabuilder-backup",
            "df -h /var/lib/pgbackrest",
            "systemctl start metabuilder-backup-drill",
            "systemctl start metabuilder-backup-server",
            "systemctl status metabuilder-backup-server",
        ],
        "of the host of the backups",
    ),
}
UNIT = re.compile(r"(?:-u|systemctl (?:status|start|show(?: -p \w+)+)) (\S+)")


@pytest.fixture
def account(site: Site) -> str:
    if len(site.names) > 1:
        pytest.skip("covered by the scenario with one host")
    mailbox = RemoteMailbox(site, f"troubled-{time.time_ns() % 10**9}")
    mailbox.deliver(1)
    mailbox.register()
    mailbox.sync()
    return mailbox.user


def test_each_command_works(site: Site, account: str) -> None:
    host, page = site.first("celery_workers"), commands()
    assert NOT_RUN.keys() <= set(page)
    lines = [line for line in page if line not in NOT_RUN]
    assert {line.partition(" ")[0] for line in lines} >= {"metabuilder", "systemctl", "journalctl", "df"}
    # Given an account and a dead letter for the names on the page
    lost = '{"email_client_id": "none", "user_id": "none", "tenant_id": "troubled"}'
    run_each(host, [f"metabuilder task:run sync_emails --wait --kwargs '{lost}'"])
    letter = host.check_output("metabuilder dlq list --tenant troubled --json | grep -om1 '[0-9a-f-]\\{36\\}'")

    def called(line: str) -> str:
        line = line.replace("dlq show ID", f"dlq show {letter}").replace(" ACCOUNT", f" {account} --tenant {TENANT}")
        return line.replace("=ID", f"={account}")

    done = dict(zip(lines, run_each(host, map(called, lines)), strict=True))

    nothing_found = {line for line, ended in done.items() if " -g " in line and "-- No entries --" in ended.stdout}
    assert {line: ended for line, ended in done.items() if ended.status and line not in nothing_found} == {}
    # systemctl and journalctl do not mind a property or a unit that is not there
    for line in lines:
        assert done[line].stdout.count("=") >= line.count(" -p ") or not line.startswith("systemctl show"), line
    units = sorted({unit for line in lines for unit in UNIT.findall(line)})
    names = [unit if "*" in unit else f"{unit}.service" for unit in units]
    listed = run_each(host, [f"systemctl list-units --all --plain --no-legend {name}" for name in names])
    assert [unit for unit, ended in zip(units, listed, strict=True) if not ended.stdout] == []
    host.check_output(f"metabuilder dlq drop {letter} --yes")
