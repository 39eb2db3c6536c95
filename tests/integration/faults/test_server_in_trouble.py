"""A server that is in trouble for a while costs no mail: what it withheld or denied is there again afterwards."""

from collections.abc import Callable, Iterator

import pytest

from native.postgres import libpq
from tasks.errors import TransientError
from tasks.storage.accounts.rows import find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_faults import drop, refuse, rewrite
from tests.support.imap_server import ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, quarantine, stored_uids

BODIES = r"UID FETCH .*BODY\.PEEK\[\]"
ALL = list(range(1, 11))


@pytest.fixture
def server(database: Database, environment: Callable[..., None]) -> Iterator[ImapServer]:
    environment(SYNC_BATCH_SIZE="5", MAIL_TIMEOUT="1")
    with ImapServer() as server:
        server.inbox.append(*(message(n) for n in ALL))
        yield server


def hours_pass(database: Database, hours: int) -> None:
    """What was set aside was set aside so long ago."""
    import psycopg2

    with psycopg2.connect(libpq(database.owner_url)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE raw_quarantine SET created_at = created_at - make_interval(hours => %s)", (hours,))


def test_mail_withheld_for_a_while_is_asked_for_again(server: ImapServer, database: Database) -> None:
    # Given new mail that a server in trouble refuses to give, sync after sync
    account = register(server)
    sync(account)
    server.inbox.append(message(11))
    trouble = server.on(BODIES, refuse("NO [SERVERBUG] Internal error"), times=None)
    for _ in range(5):
        sync(account)
    assert set(quarantine()) == {11}

    # When it is well again and some hours have passed
    trouble.times = 0
    sync(account)
    assert set(quarantine()) == {11}, "not at every sync"
    hours_pass(database, 7)
    sync(account)

    # Then the mail is there
    assert quarantine() == {}
    assert stored_uids() == [*ALL, 11]
    assert_counts_agree()


def test_several_messages_withheld_by_a_server_that_gives_none_are_not_set_aside(server: ImapServer) -> None:
    account = register(server)
    sync(account)
    server.inbox.append(message(11), message(12))
    trouble = server.on(BODIES, refuse("NO [SERVERBUG] Internal error"), times=None)
    for _ in range(6):
        assert "INBOX" in sync(account).failed_folders
    assert quarantine() == {}

    trouble.times = 0
    sync(account)

    assert stored_uids() == [*ALL, 11, 12]


def test_a_server_that_breaks_off_at_every_first_message_has_none_set_aside(server: ImapServer) -> None:
    trouble = server.on(BODIES, drop, times=None)
    account = register(server)
    for _ in range(12):
        with pytest.raises(TransientError):
            sync(account)
    assert quarantine() == {}

    trouble.times = 0
    sync(account)

    assert stored_uids() == ALL


def test_a_search_that_names_too_few_removes_nothing(server: ImapServer) -> None:
    account = register(server)
    sync(account)
    server.on(r"UID SEARCH", rewrite(rb"ALL 1:10", b"ALL 1:2"), times=None)

    tally = sync(account, full_since=0.0)

    assert tally.total("deleted") == 0
    assert stored_uids() == ALL


def test_a_folder_that_is_only_a_parent_any_more_holds_no_mail(server: ImapServer) -> None:
    folder = server.add_folder("Projects")
    folder.append(message(20))
    account = register(server)
    sync(account)
    assert stored_uids("Projects") == [1]

    server.on(r"EXAMINE .*Projects", refuse("NO [NONEXISTENT] Mailbox does not exist"), times=None)
    folder.append(message(21))
    tally = sync(account)

    assert stored_uids("Projects") == []
    assert tally.failed_folders == {}
    assert stored_uids() == ALL


def test_a_folder_that_cannot_be_opened_is_shown_on_the_account(server: ImapServer) -> None:
    server.add_folder("Shared").append(message(20))
    server.on(r"EXAMINE .*Shared", refuse("NO [NOPERM] Permission denied"), times=None)
    account = register(server)

    sync(account)

    shown = find_account(TENANT, account.id)
    assert shown.last_error_code == "folders_failed"
    assert "Shared" in (shown.last_error or "")
    assert shown.paused_at is None
    assert stored_uids() == ALL
