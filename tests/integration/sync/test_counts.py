"""What runs count for the metrics: messages and bytes of syncs, and errors of mail servers by provider."""

from collections.abc import Mapping

import pytest

from tasks import counting
from tasks.engine.connect import connected
from tasks.engine.connection_cache import lent_smtp
from tasks.errors import EmailError, LeaseLostError
from tasks.storage.accounts.rows import Account
from tests.conftest import register, sync
from tests.support.mailbox import Mailbox, message


def counts_of_sync(account: Account) -> Mapping[tuple[str, ...], int]:
    counting.begin()
    sync(account)
    return counting.end()


def test_a_sync_counts_what_it_did(account: Account, mailbox: Mailbox) -> None:
    sizes = [len(content) for content in map(message, range(3))]
    mailbox.append([message(number) for number in range(3)])

    counts = counts_of_sync(account)

    assert counts["sync", "synced"] == 3
    assert counts["sync", "bytes"] == pytest.approx(sum(sizes), abs=100)  # a server may write line ends anew
    assert counts_of_sync(account) == {}
    sync(account)  # outside of a run of a task, nothing is counted
    assert counting.end() == {}


def test_errors_of_servers_count_by_protocol_and_provider(mailbox: Mailbox, account: Account) -> None:
    refused = register(mailbox, "wrong password", password="wrong")
    gone = register(mailbox, "gone", port=1, smtp_hostname="127.0.0.1", smtp_port=1, smtp_encryption="none")
    unknown = register(mailbox, "unknown", hostname="no-such-host.invalid")
    counting.begin()
    for one in (refused, gone, unknown):
        with pytest.raises(EmailError):
            sync(one)
    with pytest.raises(EmailError), lent_smtp(gone):
        pass
    # An error that is none of the server's
    with pytest.raises(LeaseLostError), connected(account):
        raise LeaseLostError

    assert counting.end() == {
        ("server", "imap", "other", "authentication_failed"): 1,
        ("server", "imap", "other", "server_unavailable"): 1,
        ("server", "smtp", "other", "server_unavailable"): 1,
        ("server", "imap", "other", "unknown_host"): 1,
    }
