"""mail-watcher.service"""

import time
from collections.abc import Iterator

import pytest

from tests.support.site import RemoteMailbox, Site, main_pid, sql, wait_active
from tests.support.worker import wait_until

UNIT, FILES = (
    "mail-watcher.service",
    ("/etc/systemd/system/mail-watcher.service", "/etc/metabuilder/mail-watcher.env"),
)
# A watcher that is silent is replaced after 18 s; then a login is needed. A busy machine needs longer.
SECONDS = 300


@pytest.fixture
def watched(site: Site) -> Iterator[RemoteMailbox]:
    """A mailbox that is due in a day, and of which a watcher is told."""
    if not site.variable(site.group("celery_workers")[0], "mail_watcher_enabled"):
        pytest.skip("covered by the scenario with several hosts")
    made = RemoteMailbox(site, f"watched-{time.time_ns() % 10**9}")
    made.deliver(1)
    made.register()
    assert made.sync()["messages_synced"] == 1
    sql(site, f"UPDATE email_client SET watch = 'on' WHERE username = '{made.user}'")
    yield made
    sql(site, f"UPDATE email_client SET watch = 'off' WHERE username = '{made.user}'")


def watcher_of(mailbox: RemoteMailbox, *, but: str = "") -> str:
    """The name of the watcher that has a connection for it, another one than `but`: host:process:id."""
    found: list[str] = []
    query = f"SELECT watched_by FROM email_client WHERE username = '{mailbox.user}' AND watched_since IS NOT NULL"

    def is_watched() -> bool:
        found[:] = [name for name in sql(mailbox.site, query).split() if name != but]
        return bool(found)

    wait_until(is_watched, f"no watcher but {but} has it", SECONDS)
    return found[0]


def arrives(mailbox: RemoteMailbox, number: int) -> None:
    """A message arrives at the mail server, and is a row without a poll."""
    began = time.monotonic()
    mailbox.deliver(1, first=number)
    mailbox.wait_stored(number, SECONDS)
    print(f"message {number} was stored {time.monotonic() - began:.1f} s after its delivery began")


def test_mail_is_stored_as_it_arrives_whatever_becomes_of_a_watcher(site: Site, watched: RemoteMailbox) -> None:
    first = watcher_of(watched)
    host = site.host(first.partition(":")[0])
    pid = main_pid(host, UNIT)
    assert first.split(":")[1] == str(pid)
    user, files = (host.check_output(command.format(pid)).strip() for command in (
        "ps -o user= -p {}", "awk '/Max open files/ {{print $4}}' /proc/{}/limits"
    ))  # fmt: skip
    assert user == "celery"
    assert int(files) > 10_000
    assert host.file(FILES[1]).mode & 0o007 == 0
    assert "OWNER" not in host.check_output(f"tr '\\0' '\\n' </proc/{pid}/environ")
    arrives(watched, 2)

    # A watcher that hangs is replaced by that of another host, and restarted
    now = host.check_output("date +%s")
    host.check_output(f"kill -STOP {pid}")
    second = watcher_of(watched, but=first)
    assert second.partition(":")[0] != first.partition(":")[0]
    arrives(watched, 3)
    wait_active(host, UNIT, not_pid=pid)
    assert f"{UNIT}: Watchdog " in host.check_output(f"journalctl --no-pager -o cat --since=@{now} -u {UNIT}")

    # One that is killed, too
    other = site.host(second.partition(":")[0])
    pid = main_pid(other, UNIT)
    other.check_output(f"kill -KILL {pid}")
    watcher_of(watched, but=second)
    arrives(watched, 4)
    wait_active(other, UNIT, not_pid=pid)


def test_a_watcher_comes_and_goes_with_its_variable(site: Site, watched: RemoteMailbox) -> None:
    watcher_of(watched)
    hosts = [site.host(name) for name in site.group("celery_workers")]
    play = site.play("site.yml", "--tags", "watcher", "--extra-vars", '{"mail_watcher_enabled": false}')
    assert play.status == 0, play.output[-3000:]
    for host in hosts:
        assert [file for file in FILES if host.file(file).exists] == []
        assert host.run(f"systemctl is-active {UNIT}").stdout.strip() == "inactive"
    # What it watched is free, and polled as often as before
    state = f"FROM email_client WHERE username = '{watched.user}' AND watched_by IS NULL AND watched_since IS NULL"
    assert sql(site, f"SELECT count(*) {state} AND next_sync_at <= now() + interval '1 day'").strip() == "1"

    play = site.play("site.yml", "--tags", "watcher")
    assert play.status == 0, play.output[-3000:]
    for host in hosts:
        before = wait_active(host, UNIT)
        assert host.service(UNIT).is_enabled
        assert UNIT in host.check_output("metabuilder ps --json")
        host.check_output("metabuilder restart watcher")
        wait_active(host, UNIT, not_pid=before)
    watcher_of(watched)
    arrives(watched, 2)
