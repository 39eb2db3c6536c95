"""A real mailbox is synced by the deployed worker."""

import time

import pytest

from tests.support.site import RemoteMailbox, Site, wait_active


@pytest.fixture
def mailbox(site: Site, request: pytest.FixtureRequest) -> RemoteMailbox:
    """A mailbox of the test's own, registered. It outlives the test, like everything on the hosts."""
    made = RemoteMailbox(site, f"{request.node.name.replace('_', '-')[:40]}-{time.time_ns() % 10**9}")
    made.deliver(0)
    made.register()
    return made


def test_mail_becomes_rows(mailbox: RemoteMailbox) -> None:
    mailbox.deliver(25)
    assert mailbox.sync()["messages_synced"] == 25
    assert sorted(mailbox.stored()) == sorted(f"{n}@example.org" for n in range(1, 26))
    # Dovecot sees by the second in which a Maildir was changed whether there is something new.
    time.sleep(1.1)
    mailbox.deliver(5, first=26)
    assert mailbox.sync()["messages_synced"] == 5
    assert len(mailbox.stored()) == 30


def test_stopping_a_worker_in_the_middle_loses_nothing(site: Site, mailbox: RemoteMailbox) -> None:
    if len(site.names) == 1:
        pytest.skip("covered by the scenario with several hosts")
    count = 12_000  # some seconds of work
    mailbox.deliver(count)
    mailbox.queue_sync()
    mailbox.wait_stored(1)
    workers = [site.host(name) for name in site.group("celery_workers")]
    for worker in workers:
        worker.check_output("systemctl stop celery-worker")
    assert not any(worker.service("celery-worker").is_running for worker in workers)
    for worker in workers:
        worker.check_output("systemctl start celery-worker")
        wait_active(worker, "celery-worker.service")
    mailbox.wait_stored(count)
    assert len(set(mailbox.stored())) == len(mailbox.stored()) == count
