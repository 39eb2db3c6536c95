"""delete_emails on a real Dovecot: into Trash or for good, there and here, and nobody else's messages."""

import imaplib
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from native.dovecot import Dovecot
from tasks.engine.delete import messages as deletion
from tasks.errors import (
    FolderReadOnlyError,
    LeaseHeldError,
    NotFoundError,
    ProtocolError,
)
from tasks.mail.imap import removal
from tasks.mail.session import CommandRefusedError
from tasks.storage.accounts.leases import release_lease, take_lease
from tasks.storage.accounts.rows import Account, NewAccount, add_account, find_account
from tasks.storage.messages.deletions import Target
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.delete.conftest import Delete, ids_of, new_mailbox
from tests.support.imap_faults import rewrite
from tests.support.imap_server import ImapServer
from tests.support.mailbox import Mailbox, message
from tests.support.stored import assert_counts_agree, column, rows, stored_uids
from tests.support.told import Witness, told

# Where the level makes no difference, and where only some can do what is tested.
any_level = pytest.mark.parametrize("mailbox", ["MOVE and UIDPLUS"], indirect=True)
can_remove = pytest.mark.parametrize("mailbox", ["MOVE and UIDPLUS", "UIDPLUS alone"], indirect=True)


@pytest.fixture
def account(database: Database, mailbox: Mailbox) -> Account:
    """Eight messages in INBOX, the first one read, the last two marked as deleted by another client; all synced."""
    mailbox.append(message(n) for n in range(1, 9))
    mailbox.flag("1", r"\Seen")
    mailbox.flag("7:8", r"\Deleted")
    account = register(mailbox)
    sync(account)
    return account


def places() -> dict[object, tuple[object, object]]:
    """Folder and UID by Message-ID."""
    found = rows(
        "SELECT message_id, folder.name, imap_uid FROM email_message "
        "JOIN email_folder AS folder ON folder.id = folder_id"
    )
    assert len(found) == len({message_id for message_id, _, _ in found}), "a message is stored twice"
    return {message_id: (name, uid) for message_id, name, uid in found}


def ids_by_message_id() -> dict[object, object]:
    return dict(rows("SELECT message_id, id FROM email_message"))


def assert_in_sync(account: Account, mailbox: Mailbox) -> None:
    """The counts are right, and a sync finds nothing to do: the rows are where the messages are."""
    assert_counts_agree()
    tally = sync(account)
    assert (tally.total("synced"), tally.total("deleted")) == (0, 0)
    for folder in ("INBOX", "Trash"):
        assert stored_uids(folder) == mailbox.uids(folder)
    assert_counts_agree()


def test_into_trash(account: Account, mailbox: Mailbox, delete: Delete) -> None:
    before = ids_by_message_id()

    assert delete(ids_of(1, 3, 4)) == 0

    # Then the rows have gone along with the messages, and are the same rows
    assert mailbox.uids() == [2, 5, 6, 7, 8]
    assert {m for m, (name, _) in places().items() if name == "Trash"} == {f"{n}@example.org" for n in (1, 3, 4)}
    assert rows("SELECT total_count, unread_count FROM email_folder WHERE name = 'Trash'") == [(3, 2)]
    assert ids_by_message_id() == before
    assert_in_sync(account, mailbox)
    assert ids_by_message_id() == before


@can_remove
def test_for_good(account: Account, mailbox: Mailbox, delete: Delete) -> None:
    assert delete(ids_of(1, 3, 4), permanent=True) == 0

    # Then what another client has marked is still there
    assert mailbox.uids() == [2, 5, 6, 7, 8]
    assert mailbox.uids("Trash") == []
    assert_in_sync(account, mailbox)


@can_remove
def test_from_trash_for_good(account: Account, mailbox: Mailbox, delete: Delete) -> None:
    ids = ids_of(2, 3)
    delete(ids)
    delete(ids, permanent=True, task="another")
    assert mailbox.uids("Trash") == []
    assert_in_sync(account, mailbox)


@any_level
def test_a_message_in_trash_stays_there_when_it_is_deleted_again(
    account: Account, mailbox: Mailbox, delete: Delete
) -> None:
    delete(ids_of(2))
    there = places()
    delete(ids_of(2), task="another")
    assert places() == there
    assert_in_sync(account, mailbox)


def test_messages_that_are_gone_from_the_server_are_no_error(
    account: Account, mailbox: Mailbox, delete: Delete
) -> None:
    # Given messages that another client has moved and removed, which we do not know yet
    before = ids_by_message_id()
    ids = ids_of(2, 3, 4)
    with mailbox.client() as client:
        client.select("INBOX")
        client.uid("COPY", "2", "Trash")
        client.uid("STORE", "7:8", "-FLAGS", r"(\Deleted)")
        client.uid("STORE", "2:3", "+FLAGS", r"(\Deleted)")
        client.expunge()

    delete(ids)

    # Then what is in Trash by now is known by its Message-ID, and what is nowhere is gone
    assert mailbox.uids() == [1, 5, 6, 7, 8]
    after = ids_by_message_id()
    assert after == {key: value for key, value in before.items() if key != "3@example.org"}
    assert_in_sync(account, mailbox)


@any_level
@pytest.mark.parametrize("permanent", [False, True])
def test_a_folder_that_is_gone_is_no_error(
    account: Account, mailbox: Mailbox, delete: Delete, permanent: bool
) -> None:
    mailbox.create("Projects")
    mailbox.append([message(20)], "Projects")
    sync(account)
    ids = ids_of(20)
    mailbox.remove("Projects")

    delete(ids, permanent=permanent)

    assert "20@example.org" not in places()


@any_level
def test_a_row_that_a_sync_has_made_meanwhile_gives_way(
    account: Account, mailbox: Mailbox, delete: Delete, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that dies between the server and the rows, and a sync of Trash alone before its redelivery
    before = ids_by_message_id()
    ids = ids_of(2, 3)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.engine.delete.imap.move_messages", die)
        with pytest.raises(KilledError):
            delete(ids)
    sync(account, folder_id=str(column("SELECT id FROM email_folder WHERE name = 'Trash'")[0]))

    delete(ids)

    # Then each is there once, whichever row it is
    assert set(places()) == set(before)
    assert_in_sync(account, mailbox)


class KilledError(BaseException):
    """As if the worker had been killed."""


def die(*_: object, **__: object) -> None:
    raise KilledError


# Where a run may be killed: before and after each step that leaves a trace.
STEPS = {
    "before the server is asked": (removal, ("move", "copy")),
    "between copy and removal": (removal, ("mark_deleted",)),
    "before the originals go": (removal, ("remove",)),
    "before the rows are moved": ("tasks.engine.delete.imap", ("move_messages",)),
    "before the rows are removed": ("tasks.engine.delete.imap", ("remove_messages",)),
}


@pytest.mark.parametrize(
    ("mailbox", "permanent"),
    [("MOVE and UIDPLUS", False), ("MOVE and UIDPLUS", True), ("UIDPLUS alone", False)],
    indirect=["mailbox"],
)
@pytest.mark.parametrize(("where", "names"), STEPS.values(), ids=STEPS)
def test_a_redelivered_task_comes_to_the_same_end(
    account: Account,
    mailbox: Mailbox,
    delete: Delete,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    names: tuple[str, ...],
    permanent: bool,
) -> None:
    before = ids_by_message_id()
    witness = Witness()
    ids = ids_of(1, 3, 4)
    with monkeypatch.context() as patch:
        for name in names:
            target = f"{where}.{name}" if isinstance(where, str) else None
            if target:
                patch.setattr(target, die)
            else:
                patch.setattr(where, name, die)
        with suppress(KilledError):  # a step that this server does not need is never reached
            delete(ids, permanent=permanent)

    # When it is delivered again, and once more after it has been done
    assert delete(ids, permanent=permanent) == 0
    assert delete(ids, permanent=permanent) == 0

    assert mailbox.uids() == [2, 5, 6, 7, 8]
    assert len(mailbox.uids("Trash")) == (0 if permanent else 3)
    if not permanent:
        assert ids_by_message_id() == before
    assert_in_sync(account, mailbox)
    witness.check()
    assert len(told(after=witness.position)) == 3, "each message is told of once"


def test_batches(account: Account, mailbox: Mailbox, delete: Delete, environment: Callable[..., None]) -> None:
    environment(DELETE_BATCH_SIZE="2")
    mailbox.append((message(n) for n in range(20, 25)), "Archive" if "Archive" in folders(mailbox) else "INBOX")
    sync(account)
    delete(ids_of(1, 2, 3, 4, 5, 20, 21, 22, 23, 24))
    assert len(mailbox.uids("Trash")) == 10
    assert_in_sync(account, mailbox)


def folders(mailbox: Mailbox) -> str:
    with mailbox.client() as client:
        return str(client.list()[1])


@any_level
@pytest.mark.parametrize("permanent", [False, True])
@pytest.mark.parametrize("stranger", ["no-such-message", "another tenant's", "another user's"])
def test_strange_ids_are_not_found_and_nothing_is_touched(
    account: Account, mailbox: Mailbox, delete: Delete, permanent: bool, stranger: str
) -> None:
    owner = {"another tenant's": ("tenant-2", USER), "another user's": (TENANT, "user-2")}.get(stranger)
    strange = stranger
    if owner:
        new = NewAccount(
            "theirs", "b@example.org", mailbox.host, mailbox.port, "none", mailbox.user, mailbox.password
        )
        add_account(*owner, new)
        theirs = find_account(owner[0], "theirs")
        sync(theirs)
        strange = message_of(theirs)
    before = places_of(account)

    with pytest.raises(NotFoundError) as refusal:
        delete([*ids_of_account(account, 1, 2), strange], permanent=permanent)

    assert strange in str(refusal.value)
    assert places_of(account) == before
    assert mailbox.uids() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert mailbox.uids("Trash") == []


def message_of(account: Account) -> str:
    with tenant_transaction(account.tenant_id) as connection:
        found = connection.exec_driver_sql(
            "SELECT id FROM email_message WHERE email_client_id = %s LIMIT 1", (account.id,)
        )
        return str(found.scalar_one())


def ids_of_account(account: Account, *numbers: int) -> list[str]:
    return [
        str(one)
        for one in column(
            "SELECT id FROM email_message WHERE email_client_id = :account AND message_id = ANY(:wanted)",
            account=account.id,
            wanted=[f"{number}@example.org" for number in numbers],
        )
    ]


def places_of(account: Account) -> dict[object, tuple[object, object]]:
    found = rows(
        "SELECT message_id, folder.name, imap_uid FROM email_message AS message "
        "JOIN email_folder AS folder ON folder.id = folder_id WHERE message.email_client_id = :account",
        account=account.id,
    )
    return {message_id: (name, uid) for message_id, name, uid in found}


@any_level
def test_uids_that_mean_other_messages_now_are_not_deleted(
    account: Account, mailbox: Mailbox, delete: Delete
) -> None:
    # Given a server that numbers INBOX anew: what was 2 is another message now
    with mailbox.client() as client:
        client.create("Old")
        client.select("INBOX")
        client.uid("COPY", "1:8", "Old")
    ids = ids_of(2)
    with mailbox.client() as client:
        assert client.delete("Trash")[0] == "OK"
        assert client.create("Trash")[0] == "OK"
    rows("WITH u AS (UPDATE email_folder SET uidvalidity = 1 WHERE name = 'INBOX' RETURNING id) SELECT * FROM u")
    rows(
        "WITH u AS (UPDATE email_message SET uidvalidity = 1, imap_uid = 100 - imap_uid RETURNING id) SELECT * FROM u"
    )

    delete(ids)

    assert mailbox.uids() == [1, 3, 4, 5, 6, 7, 8]
    assert {name for key, (name, _) in places().items() if key == "2@example.org"} <= {"Trash"}


@any_level
def test_while_a_sync_is_at_work_nothing_is_touched(account: Account, mailbox: Mailbox, delete: Delete) -> None:
    take_lease(TENANT, USER, account.id, "sync:1", 60)
    with pytest.raises(LeaseHeldError):
        delete(ids_of(1))
    assert mailbox.uids() == [1, 2, 3, 4, 5, 6, 7, 8]
    release_lease(TENANT, account.id, "sync:1")
    assert delete(ids_of(1)) == 0


def test_a_trash_is_made_where_there_is_none(database: Database, mailbox: Mailbox, delete: Delete) -> None:
    mailbox.remove("Trash")
    mailbox.append([message(1), message(2)])
    account = register(mailbox)
    sync(account)

    delete(ids_of(1))

    assert len(mailbox.uids("Trash")) == 1
    assert_in_sync(account, mailbox)


def test_a_trash_that_is_gone_since_the_last_sync_is_made_anew(
    account: Account, mailbox: Mailbox, delete: Delete, environment: Callable[..., None]
) -> None:
    environment(DELETE_BATCH_SIZE="2")
    mailbox.remove("Trash")

    delete(ids_of(1, 2, 3))

    assert mailbox.uids() == [4, 5, 6, 7, 8]
    assert len(mailbox.uids("Trash")) == 3
    assert_in_sync(account, mailbox)


@any_level
def test_a_trash_that_has_another_name_since_the_last_sync_is_found(
    account: Account, mailbox: Mailbox, delete: Delete
) -> None:
    # Given a message in Trash, and one in a folder that goes with the renaming
    delete(ids_of(1), task="before")
    mailbox.create("Projects")
    mailbox.append([message(20)], "Projects")
    sync(account)
    ids = ids_of(2, 20)
    mailbox.rename("Trash", "Papierkorb")
    mailbox.rename("Projects", "Old projects")

    delete(ids)

    assert len(mailbox.uids("Papierkorb")) == 3
    assert "Trash" not in folders(mailbox)
    assert mailbox.uids("Old projects") == []
    assert_counts_agree()
    assert sync(account).done == 0
    assert {ids_by_message_id()[f"{n}@example.org"] for n in (2, 20)} == set(ids)


@any_level
def test_what_is_refused_while_trash_is_there_is_an_error(
    account: Account, mailbox: Mailbox, delete: Delete, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CommandRefusedError("[OVERQUOTA] no room")

    monkeypatch.setattr(removal, "move", refuse)
    with pytest.raises(CommandRefusedError, match="no room"):
        delete(ids_of(1))
    assert stored_uids("INBOX") == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_server_in_trouble_that_lists_no_folder_takes_none_of_ours(database: Database, delete: Delete) -> None:
    # Scripted: no real server hides INBOX
    with ImapServer("IMAP4rev1 MOVE UIDPLUS") as server:
        server.inbox.append(message(1))
        server.add_folder("Trash").append(message(2))
        sync(register(server))
        server.folders.pop(b"Trash")
        server.on("LIST", rewrite(rb"\* LIST [^\r]*\r\n", b""), times=None)
        with pytest.raises(ProtocolError, match="named no folder"):
            delete(ids_of(1))
    assert (stored_uids("INBOX"), stored_uids("Trash")) == ([1], [1])


class TestWithoutMoveAndUidplus:
    @pytest.fixture
    def poor(self, database: Database, poor_mailbox: Mailbox) -> Account:
        poor_mailbox.append(message(n) for n in range(1, 6))
        poor_mailbox.flag("5", r"\Deleted")
        account = register(poor_mailbox)
        sync(account)
        return account

    def test_messages_are_copied_and_marked_and_nothing_is_expunged(
        self, poor: Account, poor_mailbox: Mailbox, delete: Delete
    ) -> None:
        ids = ids_of(1, 2)
        assert delete(ids) == 2
        assert delete(ids) == 2  # delivered again
        assert poor_mailbox.uids() == [1, 2, 3, 4, 5]
        assert len(poor_mailbox.uids("Trash")) == 2
        assert column("SELECT imap_uid FROM email_message WHERE is_deleted ORDER BY 1") == [1, 2, 5]
        assert_counts_agree()

    def test_what_a_sync_has_found_in_trash_is_not_copied_again(
        self, poor: Account, poor_mailbox: Mailbox, delete: Delete
    ) -> None:
        # Given two messages that are alike and one that is not, and another that a person has marked
        poor_mailbox.append([message(1)])
        sync(poor)
        wanted = "SELECT id FROM email_message WHERE folder_id = (SELECT id FROM email_folder WHERE type = 'inbox')"
        ids = [str(one) for one in column(f"{wanted} AND message_id ~ '^[125]@'")]

        for task in ("first", "second", "third"):
            assert delete(ids, task=task) == 4
            assert len(poor_mailbox.uids("Trash")) == 4
            sync(poor)

        # And what somebody has taken out of Trash is not there any more
        poor_mailbox.expunge(str(poor_mailbox.uids("Trash")[0]), "Trash")
        assert delete(ids, task="fourth") == 4
        assert len(poor_mailbox.uids("Trash")) == 4
        assert_counts_agree()

    def test_for_good_they_are_marked(self, poor: Account, poor_mailbox: Mailbox, delete: Delete) -> None:
        assert delete(ids_of(1, 2), permanent=True) == 2
        assert poor_mailbox.uids() == [1, 2, 3, 4, 5]
        with poor_mailbox.client() as client:
            client.select("INBOX", readonly=True)
            assert client.uid("SEARCH", "DELETED")[1] == [b"1 2 5"]
        # When their owner's client expunges, they are gone here as well
        poor_mailbox.expunge("1")
        sync(poor)
        assert column("SELECT imap_uid FROM email_message ORDER BY 1") == [3, 4]


def test_move_alone_cannot_remove_for_good(database: Database, servers: dict[str, Dovecot], delete: Delete) -> None:
    mailbox = new_mailbox(servers["MOVE alone"])
    mailbox.append([message(1), message(2)])
    register(mailbox)
    sync(find_account(TENANT, "mail"))
    assert delete(ids_of(1), permanent=True) == 1
    assert mailbox.uids() == [1, 2]


@any_level
def test_a_folder_in_which_nothing_may_be_changed(
    account: Account, mailbox: Mailbox, delete: Delete, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a server that opens INBOX read-only, as it does with folders that are shared; Dovecot needs an ACL plugin
    def select(self: imaplib.IMAP4, *_: object, **__: object) -> None:
        raise self.readonly("INBOX is not writable")

    monkeypatch.setattr(imaplib.IMAP4, "select", select)
    with pytest.raises(FolderReadOnlyError):
        delete(ids_of(1), permanent=True)


@any_level
def test_a_sync_before_the_redelivery_hides_nothing(
    account: Account,
    mailbox: Mailbox,
    delete: Delete,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment(DELETE_BATCH_SIZE="2")
    ids = ids_of(1, 2, 3, 4)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.engine.delete.imap.move_messages", die)
        with pytest.raises(KilledError):
            delete(ids)
    # The first two are in Trash, and for this sync they are new messages there.
    sync(account)

    assert delete(ids) == 0

    assert mailbox.uids() == [5, 6, 7, 8]
    assert len(mailbox.uids("Trash")) == 4
    assert_in_sync(account, mailbox)


@any_level
@pytest.mark.parametrize("is_synced", [True, False], ids=["known by a sync", "found by the delete"])
def test_messages_that_get_new_uids_meanwhile_are_the_ones_deleted(
    database: Database,
    mailbox: Mailbox,
    delete: Delete,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    is_synced: bool,
) -> None:
    environment(DELETE_BATCH_SIZE="2")
    mailbox.create("Box")
    received = time.time()
    mailbox.append([message(n) for n in range(1, 7)], "Box", received=received)
    account = register(mailbox)
    sync(account)
    find = deletion._found

    def then_number_anew(*asked: object) -> list[Target]:
        found = find(*asked)
        mailbox.remove("Box")
        time.sleep(1.1)  # Dovecot takes the second of its creation for a folder's UIDVALIDITY
        mailbox.create("Box")
        mailbox.append([message(n) for n in range(6, 0, -1)], "Box", received=received)
        if is_synced:
            sync(account)
        return found

    monkeypatch.setattr(deletion, "_found", then_number_anew)

    assert delete(ids_of(1, 2, 3), permanent=True) == 0

    sync(account)
    assert set(places()) == {f"{n}@example.org" for n in (4, 5, 6)}
    assert mailbox.uids("Box") == [1, 2, 3]  # 6, 5 and 4


@pytest.mark.parametrize("permanent", [False, True], ids=["into Trash", "for good"])
@pytest.mark.parametrize("announced", ["MESSAGELIMIT=3", ""], ids=["announced", "not announced"])
def test_a_server_that_works_on_few_messages_a_command(
    database: Database, delete: Delete, *, announced: str, permanent: bool
) -> None:
    # Given a limit of three messages a command (RFC 9738)
    with ImapServer(f"IMAP4rev1 MOVE UIDPLUS ESEARCH {announced}") as server:
        server.message_limit = 3
        server.inbox.append(*(message(n) for n in range(1, 11)))
        trash = server.add_folder("Trash", attributes="\\Trash")
        sync(register(server))

        delete(ids_of(*range(1, 9)), permanent=permanent)

        assert server.inbox.uids == stored_uids() == [9, 10]
        assert trash.uids == stored_uids("Trash") == ([] if permanent else list(range(1, 9)))
        assert_counts_agree()
