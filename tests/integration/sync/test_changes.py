"""What happens to messages on a real server is reflected: flags, keywords, arrivals, moves, removals, counts."""

import time
from collections.abc import Callable, Iterator

import pytest

from tasks.engine import parsing
from tasks.engine.run import Tally
from tasks.engine.sync import changes
from tasks.engine.sync.account import SyncRequest, sync_account
from tasks.errors import LeaseHeldError, NotFoundError
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.fetch import FetchedEnvelope
from tasks.mail.imap.uidset import UidSet
from tasks.storage.accounts.leases import OwnLeaseHeldError, owner_of, take_lease
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, USER, sync
from tests.support.mailbox import Mailbox, message
from tests.support.stored import assert_counts_agree, column, quarantine, rows, stored_uids
from tests.support.worker import wait_until


def flags(uid: int) -> tuple[object, ...]:
    return rows(
        "SELECT is_read, is_starred, is_deleted, is_draft, labels FROM email_message WHERE imap_uid = :uid", uid=uid
    )[0]


def test_flags_and_keywords_follow_the_server(account: Account, mailbox: Mailbox) -> None:
    mailbox.append(message(n) for n in range(1, 6))
    sync(account)

    mailbox.flag("1", r"\Seen")
    mailbox.flag("2", r"\Flagged \Draft")
    mailbox.flag("3", r"\Deleted $Work Urlaub")
    tally = sync(account)

    assert tally.total("updated") == 3
    assert flags(1) == (True, False, False, False, [])
    assert flags(2) == (False, True, False, True, [])
    assert flags(3) == (False, False, True, False, ["$Work", "Urlaub"])
    assert_counts_agree()

    mailbox.flag("1:3", r"\Seen \Flagged \Deleted \Draft $Work Urlaub", how="-FLAGS")
    sync(account)

    assert {flags(uid)[:4] for uid in (1, 2, 3)} == {(False, False, False, False)}
    assert flags(3)[4] == []
    assert_counts_agree()


def test_moved_deleted_and_new_messages_follow_the_server(account: Account, mailbox: Mailbox) -> None:
    mailbox.create("Projekte")
    mailbox.append(message(n) for n in range(1, 11))
    mailbox.append([message(100)], "Projekte")
    sync(account)

    mailbox.move("2:4", "Projekte")
    mailbox.expunge("7,9")
    mailbox.append([message(11)], flags=r"\Seen")
    tally = sync(account)

    assert stored_uids() == mailbox.uids() == [1, 5, 6, 8, 10, 11]
    assert stored_uids("Projekte") == mailbox.uids("Projekte") == [1, 2, 3, 4]
    assert (tally.total("deleted"), tally.total("synced")) == (5, 4)
    assert len(set(column("SELECT message_id FROM email_message"))) == 10
    assert_counts_agree()


def test_an_emptied_folder_is_empty(account: Account, mailbox: Mailbox) -> None:
    mailbox.append(message(n) for n in range(1, 4))
    sync(account)

    mailbox.expunge("1:*")
    sync(account)

    assert stored_uids() == []
    assert_counts_agree()


def test_two_messages_without_a_message_id_are_two(account: Account, mailbox: Mailbox) -> None:
    mailbox.append([b"Subject: the same\r\n\r\nHello.\r\n"] * 2)

    sync(account)

    assert stored_uids() == [1, 2]
    assert column("SELECT DISTINCT message_id FROM email_message") == [None]


def test_a_full_sync_that_is_handed_on_compares_no_message_twice(
    account: Account, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given ten messages, of which three are compared at a time, and runs that have time for no more than that
    mailbox.append(message(n) for n in range(1, 11))
    sync(account)
    monkeypatch.setattr(changes, "_ENVELOPES_PER_REQUEST", 3)
    asked: list[int] = []
    fetch = ImapConnection.fetch_envelopes

    def noted(imap: ImapConnection, uids: UidSet) -> Iterator[FetchedEnvelope]:
        asked.extend(uids.uids())
        return fetch(imap, uids)

    monkeypatch.setattr(ImapConnection, "fetch_envelopes", noted)
    request = SyncRequest(account.id, TENANT, USER, full_since=time.time())
    tally = Tally()
    compared_up_to: list[int] = []

    # When flags of what was compared change before the next run
    while not sync_account(request, "test", tally, 0, lambda _: None):
        compared_up_to.append(asked[-1])
        mailbox.flag(str(asked[-1]), r"\Flagged")
    sync(account)

    # Then each run went on behind the one before (and looked at the newest three to know the folder); no flag is lost
    assert compared_up_to == [3, 6, 9, 10]
    assert [uid for uid in asked if uid < 8] == list(range(1, 8))
    assert [uid for uid in range(1, 11) if flags(uid)[1]] == compared_up_to


def test_counts_are_right_after_every_batch(
    account: Account, mailbox: Mailbox, environment: Callable[..., None]
) -> None:
    # Given batches of seven
    environment(SYNC_BATCH_SIZE="7")
    mailbox.append(message(n) for n in range(1, 31))
    mailbox.flag("3:9", r"\Seen")
    seen = set()

    def look(_: object) -> None:
        assert_counts_agree()
        seen.update(column("SELECT total_count FROM email_folder WHERE name = 'INBOX'"))

    request = SyncRequest(account.id, account.tenant_id, account.user_id)
    assert sync_account(request, "test", Tally(), 600, look)

    assert {7, 14, 21, 28, 30} <= seen


def test_one_folder_alone(account: Account, mailbox: Mailbox) -> None:
    mailbox.create("Projekte")
    sync(account)
    mailbox.append([message(1)])
    mailbox.append([message(2)], "Projekte")
    (folder_id,) = column("SELECT id FROM email_folder WHERE name = 'Projekte'")

    sync(account, folder_id=str(folder_id))

    assert stored_uids("Projekte") == [1]
    assert stored_uids() == []


def test_what_is_not_the_callers_is_not_found(account: Account) -> None:
    own = SyncRequest(account.id, TENANT, USER)
    for request in (
        own._replace(tenant_id="tenant-2"),
        own._replace(user_id="user-2"),
        own._replace(email_client_id="nobody's"),
        own._replace(folder_id="nobody's"),
    ):
        with pytest.raises(NotFoundError, match="Not found"):
            sync_account(request, "test", Tally(), 600, lambda _: None)
    # and nothing of it is noted on the account
    assert column("SELECT last_error FROM email_client") == [None]


def test_a_message_that_is_too_large_is_set_aside_until_it_may_be_larger(
    account: Account, mailbox: Mailbox, environment: Callable[..., None]
) -> None:
    environment(SYNC_MAX_MESSAGE_BYTES="65536")
    mailbox.append([message(1), message(2, body="x" * 900 + "\n" + "y\n" * 50_000), message(3)])

    tally = sync(account)

    assert stored_uids() == [1, 3]
    assert quarantine() == {2: "too_large"}
    assert tally.total("quarantined") == 1
    assert_counts_agree()
    assert sync(account).folders == {}  # it is not asked for again, and the folder counts as unchanged

    environment(SYNC_MAX_MESSAGE_BYTES="1000000")
    sync(account, full_since=time.time())

    assert stored_uids() == [1, 2, 3]
    assert quarantine() == {}
    assert_counts_agree()


def test_a_message_on_which_the_parser_fails_is_set_aside_with_its_bytes(
    account: Account, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a parser with a defect; it is replaced, as no bytes are known that make the real one fail
    parse = parsing.parse

    def defective(raw: bytes) -> object:
        if b"Message 2" in raw:
            raise ZeroDivisionError
        return parse(raw)

    mailbox.append(message(n) for n in (1, 2, 3))
    with monkeypatch.context() as patched:
        patched.setattr(parsing, "parse", defective)
        sync(account)

    assert stored_uids() == [1, 3]
    ((reason, detail, raw),) = rows("SELECT reason, detail, raw FROM raw_quarantine")
    assert (reason, detail) == ("parser_failed", "ZeroDivisionError")
    assert bytes(raw) == message(2)  # type: ignore[call-overload]

    # When it is mended
    sync(account, full_since=time.time())

    assert stored_uids() == [1, 2, 3]
    assert quarantine() == {}


def test_an_account_is_synced_by_one_run_at_a_time_and_the_lease_runs_out(
    account: Account, environment: Callable[..., None], mailbox: Mailbox
) -> None:
    # Given a run that took the lease and died
    mailbox.append([message(1)])
    take_lease(TENANT, USER, account.id, owner_of("another task"), 3)

    with pytest.raises(LeaseHeldError) as held:
        sync(account)
    assert not isinstance(held.value, OwnLeaseHeldError)
    assert 0 < held.value.seconds_left <= 3

    # Then its lease is over by itself
    wait_until(
        lambda: rows("SELECT 1 FROM email_client WHERE lease_until <= clock_timestamp()"), "the lease does not end", 5
    )
    sync(account)
    assert stored_uids() == [1]
    assert column("SELECT lease_owner FROM email_client") == [None]


def test_a_task_knows_the_lease_of_its_own_earlier_run(account: Account) -> None:
    take_lease(TENANT, USER, account.id, owner_of("test"), 3)

    with pytest.raises(OwnLeaseHeldError):
        sync(account)
