"""reread_messages and queue_rereading through the broker: queued for whom, after what, and by whom interrupted."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from native.dovecot import Dovecot
from tasks.errors import AuthenticationFailedError, MailServerUnavailableError, NotFoundError
from tasks.registry import QUEUE_REREADING, REREAD_MESSAGES
from tasks.reread import reread_messages
from tasks.runtime.control import get_queue_stats
from tasks.storage.accounts.rows import Account, change_password, record_failure
from tasks.storage.messages import rereading
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.faults.conftest import SHORT_WAITS, Queue
from tests.integration.reread.conftest import a_new_hour, as_owner, ask, outcomes, reread
from tests.support.application import Broker
from tests.support.mailbox import Mailbox, message
from tests.support.maildir import fill
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.stored import column
from tests.support.worker import Worker, wait_until


@pytest.fixture
def asked(account: Account, mailbox: Mailbox, misread: Callable[..., None]) -> Account:
    """An account with five messages that are to be read again."""
    mailbox.append(message(n) for n in range(1, 6))
    sync(account)
    misread()
    assert ask(account).messages == 5
    return account


class TestDispatch:
    def test_an_account_with_messages_to_read_is_queued_until_they_are(self, asked: Account, broker: Broker) -> None:
        assert broker.run(QUEUE_REREADING) == {"status": "success", "accounts": 1}
        assert broker.taken("reread") == [[asked.id, TENANT, USER]]
        assert reread_messages.run(asked.id, TENANT, USER)["messages_read"] == 5
        assert broker.run(QUEUE_REREADING)["accounts"] == 0

    @pytest.mark.parametrize(
        "how",
        ["is_enabled = false", "is_sync_enabled = false", "paused_at = now()", "reread_share = 1, reread_at = now()"],
    )
    def test_no_account_that_is_switched_off_or_paused_or_has_used_its_hour(
        self, asked: Account, broker: Broker, database: Database, how: str
    ) -> None:
        as_owner(database, f"UPDATE email_client SET {how}")
        assert broker.run(QUEUE_REREADING)["accounts"] == 0

    def test_an_account_whose_last_sync_failed_is_left_to_its_syncs(
        self, asked: Account, broker: Broker, database: Database
    ) -> None:
        record_failure(asked, MailServerUnavailableError("x"))
        # One that came to its end and failed in part has its errors noted at once.
        assert broker.run(QUEUE_REREADING)["accounts"] == 1
        as_owner(database, "UPDATE email_client SET last_sync_at = now() - interval '11 seconds'")
        assert broker.run(QUEUE_REREADING)["accounts"] == 0

    def test_nothing_where_it_is_switched_off(
        self, asked: Account, broker: Broker, environment: Callable[..., None]
    ) -> None:
        environment(REREAD_MESSAGES_PER_HOUR="0")
        assert broker.run(QUEUE_REREADING)["accounts"] == 0
        assert reread(asked).read == 0

    def test_what_a_later_parser_is_to_read_waits_for_a_worker_that_has_it(
        self, asked: Account, broker: Broker, database: Database
    ) -> None:
        as_owner(database, "UPDATE rereading SET parser_version = parser_version + 1")
        assert broker.run(QUEUE_REREADING)["accounts"] == 0
        assert reread(asked).read == 0
        assert list(outcomes().values()) == [None] * 5

    def test_somebody_elses_account_is_not_found(self, asked: Account) -> None:
        for tenant, user in ((TENANT, "user-2"), ("tenant-2", USER)):
            with pytest.raises(NotFoundError):
                reread_messages.run(asked.id, tenant, user)
        assert list(outcomes().values()) == [None] * 5


class TestTrouble:
    def test_a_refused_login_pauses_the_account_or_is_noted_as_that_of_a_sync_is(
        self, asked: Account, database: Database
    ) -> None:

        change_password(asked, "wrong")
        as_owner(database, "UPDATE email_client SET next_sync_at = now() + interval '1 hour'")
        with pytest.raises(AuthenticationFailedError):
            reread(asked)
        assert column("SELECT last_error_code FROM email_client") == ["authentication_failed"]
        # and not before an hour has passed
        assert column("SELECT reread_share FROM email_client") == [1.0]

    def test_a_message_that_breaks_the_connection_comes_last_and_in_the_end_stays_as_it_is(
        self, asked: Account, mailbox: Mailbox, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tasks.mail.imap.commands import ImapConnection

        stream = ImapConnection.stream_messages

        def break_at_3(self: ImapConnection, uids: Any) -> Iterator[Any]:
            for fetched in stream(self, uids):
                if fetched.uid == 3:
                    raise MailServerUnavailableError("it hung up")
                yield fetched

        monkeypatch.setattr(ImapConnection, "stream_messages", break_at_3)
        for _ in range(3):
            with pytest.raises(MailServerUnavailableError):
                reread(asked)
            a_new_hour(database)
            as_owner(database, "UPDATE email_client SET next_sync_at = now() + interval '1 hour'")
        reread(asked)
        assert list(outcomes().values()) == ["unreadable"]
        assert column("SELECT imap_uid FROM email_message WHERE parser_version = 1") == [3]
        assert rereading.counts(asked) == (1, 0, 0, 0, 1)


class TestLast:
    def test_counts_of_queues(self, broker: Broker) -> None:
        assert set(get_queue_stats().values()) == {0}

    def test_it_ends_after_a_batch_while_other_tasks_wait(
        self, asked: Account, broker: Broker, environment: Callable[..., None]
    ) -> None:
        environment(SYNC_BATCH_SIZE="2")
        broker.app.send_task("email_service.tasks.check_spam", ("x", TENANT, USER), queue="spam")
        done = reread_messages.run(asked.id, TENANT, USER)
        assert (done["status"], done["messages_read"]) == ("handed_on", 2)
        # and goes on behind them
        assert broker.taken("reread") == [[asked.id, TENANT, USER]]

    @pytest.mark.parametrize(
        "wanted", ["sync_queued_at = now()", "next_sync_at = now()", "lease_until = now() + interval '1 minute'"]
    )
    def test_it_does_not_begin_while_a_sync_is_due_or_queued_or_at_work(
        self, asked: Account, broker: Broker, database: Database, wanted: str
    ) -> None:
        as_owner(database, f"UPDATE email_client SET {wanted}")
        assert reread_messages.run(asked.id, TENANT, USER)["status"] == "busy"
        assert list(outcomes().values()) == [None] * 5

    def test_a_sync_that_comes_meanwhile_gets_the_account_within_seconds(
        self, redis: RedisServer, database: Database, dovecot: Dovecot, mailbox: Mailbox, tmp_path: Path,
        misread: Callable[..., None], environment: Callable[..., None],
    ) -> None:  # fmt: skip
        # Given an account whose messages take minutes to be read again
        environment(REDIS_URL=redis.url, **SHORT_WAITS)
        fill(dovecot, mailbox, (message(n, body="x" * 2000) for n in range(1, 301)))
        with Proxy((mailbox.host, mailbox.port), 10**8) as proxy:
            mailbox.port = proxy.port
            account = register(mailbox)
            sync(account)
            misread()
            ask(account)
            proxy.rate = 5_000
            queue = Queue()
            args = (account.id, account.tenant_id, account.user_id)
            with Worker(tmp_path, concurrency=2):
                queue.app.send_task(REREAD_MESSAGES, args, queue="reread")
                wait_until(lambda: len(outcomes()) < 300, "nothing is read again")

                done = queue.sync(account).get(timeout=60)

                assert done["status"] == "success"
                assert done["sync_duration_seconds"] < 15
                assert 0 < len(outcomes()) < 300
                # and what was in the midst goes on when it is queued again, as beat does
                proxy.rate = 10**8
                as_owner(database, "UPDATE email_client SET next_sync_at = now() + interval '1 hour'")
                queue.app.send_task(REREAD_MESSAGES, args, queue="reread")
                wait_until(lambda: not outcomes(), "it does not go on")
            queue.close()
