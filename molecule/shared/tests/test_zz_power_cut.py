"""Five power cuts of all hosts of the site at once, under load: what was accepted is done, each once.

The hosts' processes end without a word, as in a power cut. What they had written but not forced to the disk survives
here, in the page cache of the machine that they share; it would not there (docs/operations.md, After a power cut).
What a disk leaves of the last writes is made by hand: a command that is cut short, and NUL bytes.

The mail server is somebody else's and keeps its power. Last, with test_zz_reboot.py, as it takes everything away.
"""

import base64
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testinfra.host import Host

from tests.support.hosts.faults import cut_power, restore_power
from tests.support.hosts.network import Network
from tests.support.site import FOUND, RemoteMailbox, Site, main_pid, sql

CUTS = 5
SENDS = 120
MESSAGES = 200
_SECONDS = 120
_SMTP_PORT = 2525
# Takes everything, and has the subject on its disk before it answers.
_SINK = f"""
import asyncio, os
log = open("/var/mail/accepted", "ab", 0)
answers = {{b"EHLO": b"250-sink\\r\\n250 AUTH PLAIN\\r\\n", b"AUTH": b"235 ok\\r\\n", b"QUIT": b"221 bye\\r\\n"}}
async def serve(reader, writer):
    writer.write(b"220 ready\\r\\n")
    while line := await reader.readline():
        verb = line[:4].upper()
        if verb == b"DATA":
            writer.write(b"354 go on\\r\\n")
            content = await reader.readuntil(b"\\r\\n.\\r\\n")
            await asyncio.sleep(0.05)
            (subject,) = [part for part in content.split(b"\\r\\n") if part.startswith(b"Subject: ")]
            log.write(subject + b"\\n")
            os.fsync(log)
        writer.write(answers.get(verb, b"250 ok\\r\\n"))
async def main():
    await (await asyncio.start_server(serve, "0.0.0.0", {_SMTP_PORT})).serve_forever()
asyncio.run(main())
"""
# A task whose worker is gone comes back after 40 s instead of 20 minutes, and a mail server's answer is waited for
# 20 s instead of three minutes.
_SOON = """
TASK_TIMEOUT=20
CELERY_TASK_SOFT_TIME_LIMIT=15
TASK_RETRY_MAX_DELAY=10
CELERY_VISIBILITY_TIMEOUT=40
SMTP_TIMEOUT=5
"""
# What a disk had of the last write: a part of a command, then blocks that were never written.
_TORN = b"*3\r\n$5\r\nLPUSH\r\n$4\r\nse" + 5000 * b"\0"


_UNITS = {
    "redis": "redis-server@broker.service",
    "postgresql": "postgresql@*-main.service",
    "celery_workers": "celery-worker.service",
    "celery_beat": "celery-beat.service",
    "flower": "celery-flower.service",
}


@pytest.fixture
def network(site: Site, containers: Network | None) -> Network:
    if len(site.names) == 1:
        pytest.skip("covered by the scenario with several hosts")
    if not containers:
        pytest.skip("these hosts are no containers of this machine, and nobody else cuts their power")
    return containers


def test_what_was_accepted_is_done_once_after_five_power_cuts(site: Site, network: Network) -> None:
    mailbox = _prepare(site)
    for cut in range(CUTS):
        # Given mail that is being sent, and a mailbox that is being synced
        mailbox.deliver(MESSAGES, first=1 + cut * MESSAGES)
        _queue(mailbox, cut)
        _wait_until_under_load(site, cut)

        # When the power goes, once with a torn end of what the broker writes
        cut_power(network, site.names)
        if cut == 1:
            folder = network.container(site.group("redis")[0]).root / "var/lib/redis/broker/appendonlydir"
            with max(folder.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime).open("ab") as file:
                file.write(_TORN)
        restore_power(network, site.names)

        # Then all comes back by itself
        _wait_until_running(site, network)

    # And of what was accepted nothing is lost, and nothing was done twice
    expected = {f"power-{cut}-{number}" for cut in range(CUTS) for number in range(SENDS)}
    states = _wait_until_sent(site, expected)
    taken = Counter(site.first("mail").check_output("sed 's/^Subject: //' /var/mail/accepted").split())
    assert set(taken) <= expected
    assert max(taken.values()) == 1
    # A mail whose answer from the mail server was cut off is for a person (metabuilder outbox): of each process one.
    unknown = {key for key, state in states.items() if state == "unknown"}
    assert expected - set(taken) <= unknown
    assert len(unknown) <= CUTS * _processes(site), unknown
    _wait(lambda: len(_stored(site)) >= CUTS * MESSAGES)
    stored = _stored(site)
    assert len(stored) == len(set(stored)) == CUTS * MESSAGES
    assert sql(site, "SELECT task_name, error FROM dead_letter WHERE error_code <> 'delivery_unknown'") == ""


def test_the_torn_end_was_said_and_kept(site: Site, network: Network) -> None:
    redis = site.first("redis")
    said = redis.check_output("journalctl --no-pager --output=cat --priority=crit --unit=redis-server@broker")
    assert "ended in 5000 NUL bytes" in said
    assert int(redis.check_output("cat /var/lib/redis/broker/damaged-*/*.incr.aof | tr -dc '\\0' | wc -c")) >= 5000


def test_the_database_forces_to_the_disk_what_it_answers_for(site: Site) -> None:
    settings = ("fsync", "full_page_writes", "synchronous_commit")
    assert {sql(site, f"SHOW {name}").strip() for name in settings} == {"on"}


def _prepare(site: Site) -> RemoteMailbox:
    mail = site.first("mail")
    _write(mail, "/usr/local/bin/sink", _SINK)
    mail.check_output("systemd-run --quiet --unit=test-sink python3 /usr/local/bin/sink")
    folder = "/etc/systemd/system/celery-worker.service.d"
    for name in site.group("celery_workers"):
        _write(site.host(name), f"{folder}/soon.env", _SOON)
        _write(site.host(name), f"{folder}/soon.conf", f"[Service]\nEnvironmentFile={folder}/soon.env\n")
    mailbox = RemoteMailbox(site, f"power-{time.time_ns() % 10**9}")
    host = site.group("mail")[0]
    mailbox.register(smtp_hostname=host, smtp_port=_SMTP_PORT, smtp_encryption="none")
    return mailbox


def _wait_until_running(site: Site, network: Network) -> None:
    """Wait until all units of all hosts are active: each host by itself, with one connection."""

    def wait(name: str) -> str:
        units = [unit for group, unit in _UNITS.items() if name in site.group(group)]
        each = f"for unit in {' '.join(units)}; do until systemctl is-active --quiet $unit; do sleep 0.2; done; done"
        done = network.ssh(
            name, f"timeout {_SECONDS} sh -c '{each}' || systemctl --no-pager status {' '.join(units)}"
        )
        return f"{name}: {done.stdout}{done.stderr}" if done.returncode or done.stdout else ""

    with ThreadPoolExecutor(len(site.names)) as pool:
        assert "".join(pool.map(wait, site.names)) == ""


def _write(host: Host, path: str, content: str) -> None:
    host.check_output(
        f"mkdir -p {Path(path).parent} && echo {base64.b64encode(content.encode()).decode()} | base64 -d >{path}"
    )


def _queue(mailbox: RemoteMailbox, cut: int) -> None:
    """Queue a sync and mails, and return when Redis has taken all of them."""
    mailbox.run(
        f"{FOUND}sync_emails.delay(account.id, *who)\nfor number in range({SENDS}):\n"
        f"    key = f'power-{cut}-{{number}}'\n"
        "    send_email.delay(account.id, *who, 'b@example.org', subject=key, body_text=key, idempotency_key=key)\n"
        "print('null')"
    )


def _wait_until_under_load(site: Site, cut: int) -> None:
    """Until some mails of this round are out, and most are not."""
    wanted = f"-{cut}-"
    _wait(lambda: site.first("mail").run(f"grep -c -e {wanted} /var/mail/accepted").stdout.strip() not in ("", "0"))


def _wait_until_sent(site: Site, keys: set[str]) -> dict[str, str]:
    """Wait until every mail is sent, or for a person: the states by key."""
    states: dict[str, str] = {}

    def all_are_done() -> bool:
        rows = sql(site, "SELECT substr(key, 5), state FROM outbox_message WHERE key LIKE 'key:power-%'").split()
        states.update(dict(row.split("|") for row in rows))
        return set(states) == keys and set(states.values()) <= {"sent", "unknown"}

    _wait(all_are_done, lambda: f"{len(states)} of {len(keys)}: {Counter(states.values())}")
    return states


def _wait(is_so: Callable[[], bool], said: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + _SECONDS
    while not is_so():
        assert time.monotonic() < deadline, said()
        time.sleep(0.2)


def _stored(site: Site) -> list[str]:
    """The Message-IDs in the folder INBOX."""
    query = "SELECT m.message_id FROM email_message m JOIN email_folder f ON f.tenant_id = m.tenant_id AND "
    query += "f.id = m.folder_id JOIN email_client c ON c.tenant_id = f.tenant_id AND c.id = f.email_client_id "
    return sql(site, query + "WHERE c.account_name LIKE 'power-%' AND f.type = 'inbox'").split()


def _processes(site: Site) -> int:
    """How many there are that run tasks."""
    workers = [site.host(name) for name in site.group("celery_workers")]
    return sum(int(worker.check_output(f"pgrep -c -P {main_pid(worker, 'celery-worker')}")) for worker in workers)
