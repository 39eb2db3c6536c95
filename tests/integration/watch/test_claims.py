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


def test_a_lowered_limit_has_watchers_give_up_what_is_beyond_it(database: Database) -> None:
    for number in range(6):
        register(Mailbox("imap.example", 143, f"user-{number}", "secret"), f"mail {number}")
    rows("UPDATE email_client SET last_sync_at = now() RETURNING 1")
    other = "host:2:name"
    for watcher in (WATCHER, other):
        renew_watcher(watcher, 60)
        claim_watches(watcher, 3, 100, {})
    assert len(list_watches(WATCHER)) == len(list_watches(other)) == 3
    rows("UPDATE email_client SET watched_since = now() WHERE account_name < 'mail 4' RETURNING 1")
    for watcher in (WATCHER, other):
        claim_watches(watcher, 3, 100, {"imap.example": 8})
    # The connections stay, and what is given up is polled soon.
    left = rows("SELECT account_name FROM email_client WHERE watched_by IS NOT NULL ORDER BY account_name")
    assert left == [(f"mail {number}",) for number in range(4)]
    soon = "next_sync_at <= now() + make_interval(secs => sync_interval)"
    assert rows(f"SELECT account_name FROM email_client WHERE watched_by IS NULL AND {soon}") == [
        ("mail 4",),
        ("mail 5",),
    ]
