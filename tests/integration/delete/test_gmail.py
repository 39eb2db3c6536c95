"""Deleting at Gmail, which only archives what is removed elsewhere than in Trash; scripted."""

from collections.abc import Iterator

import pytest

from tasks.delete import delete_emails
from tasks.mail.imap import removal
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.delete.conftest import Delete, ids_of
from tests.support.gmail import ALL_MAIL, TRASH, GmailServer
from tests.support.imap_faults import rewrite
from tests.support.mailbox import message
from tests.support.stored import column, rows, stored_uids

WITHOUT_ID = message(4).replace(b"Message-ID: <4@example.org>\r\n", b"")


@pytest.fixture
def gmail(database: Database) -> Iterator[GmailServer]:
    with GmailServer() as server:
        server.everything.append(WITHOUT_ID)
        yield server


@pytest.fixture
def account(gmail: GmailServer) -> Account:
    account = register(gmail)
    sync(account)
    return account


def says_nothing_of_new_uids(gmail: GmailServer) -> None:
    gmail.on("UID MOVE", rewrite(rb"\* OK \[COPYUID [^\r]*\r\n", b""), times=None)


def nameless() -> str:
    [found] = column("SELECT id FROM email_message WHERE message_id IS NULL")
    return str(found)


def assert_in_sync(account: Account) -> None:
    tally = sync(account)
    assert (tally.total("synced"), tally.total("deleted")) == (0, 0)


@pytest.mark.parametrize("is_told", [True, False], ids=["by COPYUID", "by Message-ID"])
def test_into_trash(account: Account, gmail: GmailServer, delete: Delete, is_told: bool) -> None:
    if not is_told:
        says_nothing_of_new_uids(gmail)
    ids = ids_of(1, 2)

    assert delete(ids) == 0

    assert (gmail.everything.uids, gmail.inbox.uids, gmail.trash.uids) == ([3, 4], [], [1, 2, 3])
    assert stored_uids(TRASH) == [1, 2, 3]
    assert ids_of(1, 2) == ids
    assert_in_sync(account)


@pytest.mark.parametrize("is_told", [True, False], ids=["by COPYUID", "by Message-ID"])
def test_for_good_they_go_through_trash(account: Account, gmail: GmailServer, delete: Delete, is_told: bool) -> None:
    if not is_told:
        says_nothing_of_new_uids(gmail)

    # From All Mail, from Spam and from Trash
    assert delete(ids_of(1, 2, 8, 9), permanent=True) == 0

    assert (gmail.everything.uids, gmail.spam.uids, gmail.trash.uids) == ([3, 4], [], [])
    assert len(column("SELECT id FROM email_message")) == 2
    assert_in_sync(account)


class KilledError(BaseException):
    """As if the worker had been killed."""


@pytest.mark.parametrize("step", ["move", "mark_deleted", "remove"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_on_the_way_they_are_gone_in_the_end(
    account: Account, gmail: GmailServer, delete: Delete, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    ids = ids_of(1, 2)
    do = getattr(removal, step)

    def die(*what: object) -> None:
        if when == "after":
            do(*what)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(removal, step, die)
        with pytest.raises(KilledError):
            delete(ids, permanent=True)

    assert delete(ids, permanent=True) == 0

    assert (gmail.everything.uids, gmail.trash.uids) == ([3, 4], [1])
    assert_in_sync(account)


def test_what_cannot_be_found_in_trash_again_is_not_said_to_be_deleted(account: Account, gmail: GmailServer) -> None:
    says_nothing_of_new_uids(gmail)
    ids = [*ids_of(1), nameless()]

    for _ in range(2):  # and delivered again
        result = delete_emails.run(ids, TENANT, USER, True)
        assert result == {"status": "partial", "deleted_count": 1, "marked_count": 1}

    # It is in Trash, and marked here until a sync finds it there
    assert [stored.raw for stored in gmail.trash.messages.values()] == [message(9), WITHOUT_ID]
    assert rows("SELECT id, is_deleted FROM email_message WHERE message_id IS NULL") == [(ids[1], True)]
    sync(account)
    assert stored_uids(TRASH) == gmail.trash.uids
    assert stored_uids(ALL_MAIL) == [2, 3]


def test_what_the_server_tells_to_be_in_trash_needs_no_message_id(
    account: Account, gmail: GmailServer, delete: Delete
) -> None:
    assert delete([*ids_of(1), nameless()], permanent=True) == 0
    assert (gmail.everything.uids, gmail.trash.uids) == ([2, 3], [1])
    assert_in_sync(account)


@pytest.mark.parametrize("is_alone", [True, False])
def test_what_is_gone_already_is_deleted(
    account: Account, gmail: GmailServer, delete: Delete, is_alone: bool
) -> None:
    ids = ids_of(1) if is_alone else [*ids_of(1), nameless()]
    gmail.everything.expunge(1)
    assert delete(ids, permanent=True) == 0
    assert gmail.trash.uids == [1]
    assert ids[0] not in column("SELECT id FROM email_message")
