"""A mailbox on Dovecot that is watched: what happens there becomes rows at once, by a real watcher and worker."""

from collections.abc import Callable
from pathlib import Path

import pytest

from native.dovecot import Dovecot
from tasks.monitoring.readings.totals import totals
from tasks.registry import PERIODIC_SYNC
from tasks.runtime.broker.transport import broker_client
from tasks.storage.accounts.choices import choose_watch
from tasks.storage.accounts.rows import Account
from tasks.storage.accounts.watches import renew_watcher
from tests.conftest import Database, register, sync
from tests.support.application import application
from tests.support.mailbox import Mailbox, message
from tests.support.proxy import Network
from tests.support.servers import PostgresServer, RedisServer
from tests.support.stored import column, rows, stored_uids
from tests.support.watcher import running_watcher
from tests.support.worker import Worker, wait_until


@pytest.fixture
def watched(database: Database, redis: RedisServer, environment: Callable[..., None], mailbox: Mailbox) -> Account:
    """An account with a message in INBOX and one in a folder, both synced, that is due in a day."""
    environment(REDIS_URL=redis.url, LOG_LEVEL="DEBUG")
    mailbox.append([message(1)])
    mailbox.create("Work")
    mailbox.append([message(2)], "Work")
    account = register(mailbox)
    sync(account)
    rows("UPDATE email_client SET sync_interval = 86400, next_sync_at = now() + interval '1 day' RETURNING 1")
    return account


def test_what_happens_in_a_watched_mailbox_is_stored_without_a_poll(
    watched: Account, mailbox: Mailbox, tmp_path: Path
) -> None:
    with running_watcher(tmp_path) as watcher, Worker(tmp_path, queues="sync"):
        watcher.wait_until_watching("mail")

        mailbox.append([message(3)])
        wait_until(lambda: stored_uids() == [1, 2], "the new message is not stored")

        mailbox.append([message(4)], "Work")
        wait_until(lambda: stored_uids("Work") == [1, 2], "the new message in another folder is not stored")

        mailbox.flag("1", r"\Seen")
        wait_until(lambda: column("SELECT is_read FROM email_message WHERE imap_uid = 1 AND is_read"), "not read")

        mailbox.expunge("1")
        wait_until(lambda: stored_uids() == [2], "the removed message is still stored")

        choose_watch(watched, "off")
        watcher.wait_until_watching()
        # It is polled again as often as before it was watched.
        [(is_soon,)] = rows("SELECT next_sync_at <= now() + make_interval(secs => sync_interval) FROM email_client")
        assert is_soon
        choose_watch(watched, "auto")
        watcher.wait_until_watching("mail")
        with application() as app, broker_client(app) as client:
            wait_until(lambda: totals(client).watch == {("login",): 2}, "its logins are not counted")
            assert watcher.stop() == 0
            assert rows("SELECT watched_by, watched_since FROM email_client") == [(None, None)]

            # A poll that finds mail in a mailbox that is watched counts as missed by its watcher
            renew_watcher("another", 3600)
            watch = "watched_by = 'another', watched_since = now() - interval '1 hour', next_sync_at = now()"
            rows(f"UPDATE email_client SET {watch}, sync_queued_at = NULL RETURNING 1")
            mailbox.append([message(5)])
            app.tasks[PERIODIC_SYNC].apply(throw=True)
            wait_until(lambda: totals(client).watch.get(("missed",)) == 1, "it is not counted")


def test_servers_that_restart_or_go_silent_cost_a_watched_mailbox_no_message(
    watched: Account,
    mailbox: Mailbox,
    dovecot: Dovecot,
    postgres: PostgresServer,
    redis: RedisServer,
    environment: Callable[..., None],
    tmp_path: Path,
) -> None:
    environment(WATCH_IDLE_SECONDS="2", MAIL_TIMEOUT="3")
    expected = [1]

    def arrives() -> None:
        expected.append(expected[-1] + 1)
        mailbox.append([message(100 + len(expected))])
        wait_until(lambda: stored_uids() == expected, "the new message is not stored", 60)

    with (
        Network((mailbox.host, mailbox.port)) as network,
        running_watcher(tmp_path) as watcher,
        Worker(tmp_path, queues="sync"),
    ):
        rows("UPDATE email_client SET port = :port RETURNING 1", port=network.port)
        watcher.wait_until_watching("mail")
        arrives()

        dovecot.restart()
        arrives()

        # Half open: nothing comes over the connections that there are, and they do not end.
        network.be_silent(forget=True)
        network.mend()
        arrives()

        postgres.restart()
        arrives()

        redis.restart()
        arrives()

        watcher.wait_until_watching("mail")
