"""Two syncs of one account at once: each message is stored once, and both callers are told the truth."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native.dovecot import Dovecot
from tests.conftest import Database, register
from tests.integration.faults.conftest import Queue
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
from tests.support.stored import assert_counts_agree, column, rows, stored_uids
from tests.support.worker import Worker, wait_until

ALL = list(range(1, 401))


@pytest.fixture
def slow_mailbox(dovecot: Dovecot, mailbox: Mailbox, database: Database) -> Iterator[Proxy]:
    fill(dovecot, mailbox, map(message, ALL))
    with Proxy((mailbox.host, mailbox.port), rate=100_000) as proxy:
        mailbox.port = proxy.port
        yield proxy


def test_a_delete_is_let_by(slow_mailbox: Proxy, mailbox: Mailbox, tasks_queue: Queue, tmp_path: Path) -> None:
    # Given a sync that takes a minute
    slow_mailbox.rate = 5_000
    account = register(mailbox)
    with Worker(tmp_path, concurrency=2):
        first = tasks_queue.sync(account)
        wait_until(lambda: column("SELECT count(*) FROM email_message")[0], "nothing is stored")

        # When a message is deleted meanwhile
        ids = column("SELECT id FROM email_message LIMIT 1")
        args = (ids, account.tenant_id, account.user_id)
        deleted = tasks_queue.app.send_task("email_service.tasks.delete_emails", args, queue="delete")

        # Then that is done before the sync is
        assert deleted.get(timeout=90)["deleted_count"] == 1
        assert column("SELECT count(*) FROM email_message")[0] < len(ALL)
        slow_mailbox.rate = 10**8
        assert first.get(timeout=120)["status"] == "success"
    assert len(mailbox.uids("Trash")) == 1
    assert len(column("SELECT id FROM email_message")) == len(ALL)
    assert_counts_agree()


def test_a_host_gets_no_more_connections_than_it_takes(
    slow_mailbox: Proxy, mailbox: Mailbox, environment: Callable[..., None], tasks_queue: Queue, tmp_path: Path
) -> None:
    environment(MAIL_HOST_CONNECTIONS=f"{mailbox.host}=1")
    accounts = [register(mailbox, name) for name in ("one", "other")]
    with Worker(tmp_path, concurrency=2) as worker:
        syncs = [tasks_queue.sync(account) for account in accounts]
        assert [done.get(timeout=120)["messages_synced"] for done in syncs] == [len(ALL), len(ALL)]
        assert "HostBusyError" in worker.log.read_text()

    stored = rows("SELECT min(filed_at), max(filed_at) FROM email_message GROUP BY email_client_id ORDER BY 1")
    (_, first_ends), (second_begins, _) = stored
    assert first_ends < second_begins


def test_the_second_waits_for_the_first(
    slow_mailbox: Proxy, mailbox: Mailbox, tasks_queue: Queue, tmp_path: Path
) -> None:
    account = register(mailbox)
    with Worker(tmp_path, concurrency=2) as worker:
        first = tasks_queue.sync(account)
        wait_until(lambda: column("SELECT count(*) FROM email_message")[0], "nothing is stored")
        second = tasks_queue.sync(account)

        assert first.get(timeout=120)["messages_synced"] == len(ALL)
        assert second.get(timeout=120)["status"] in {"success", "already_running"}
        assert second.get(timeout=1)["messages_synced"] == 0
        assert f"[{second.id}] retry" in worker.log.read_text()
    assert stored_uids() == ALL
    assert_counts_agree()
