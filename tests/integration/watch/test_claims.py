"""Which accounts a watcher claims."""

from collections.abc import Mapping

from tasks.storage.accounts.watches import claim_watches, end_watcher, list_watches, renew_watcher
from tests.conftest import Database, register
from tests.support.mailbox import Mailbox
from tests.support.stored import rows

WATCHER = "host:1:name"


def claimed(host_limits: Mapping[str, int]) -> int:
    """How many accounts a new watcher claims."""
    renew_watcher(WATCHER, 60)
    claim_watches(WATCHER, 100, 100, host_limits)
    number = len(list_watches(WATCHER))
    end_watcher(WATCHER)
    return number


def test_accounts_are_claimed_up_to_the_limit_of_their_server_unless_they_fail(database: Database) -> None:
    for number in range(5):
        register(Mailbox("imap.example", 143, f"user-{number}", "secret"), f"mail {number}")
    rows("UPDATE email_client SET last_sync_at = now() RETURNING 1")
    assert claimed({}) == 5
    # half of what a server may have, and 0 stands for no limit
    assert claimed({"*": 5}) == 2
    assert claimed({"imap.example": 4, "*": 50}) == 2
    assert claimed({"imap.example": 0, "*": 2}) == 5
    rows("UPDATE email_client SET failing_since = now() WHERE account_name <> 'mail 0' RETURNING 1")
    assert claimed({}) == 1
