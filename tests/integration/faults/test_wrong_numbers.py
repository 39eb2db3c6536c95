"""UIDVALIDITY, UIDNEXT and folder names that no proper server gives. Scripted, for that reason."""

from collections.abc import Callable, Iterator

import pytest

from tasks.errors import TransientError
from tests.conftest import Database, register, sync
from tests.support.imap_faults import cut, from_message
from tests.support.imap_server import BASIC, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, column, quarantine, stored_uids

ALL = list(range(1, 31))
BODIES = r"UID FETCH .*BODY\.PEEK\[\]"
LEVELS = {"basic": BASIC, "qresync": QRESYNC}


@pytest.fixture(params=LEVELS.values(), ids=LEVELS)
def server(
    request: pytest.FixtureRequest, database: Database, environment: Callable[..., None]
) -> Iterator[ImapServer]:
    environment(SYNC_BATCH_SIZE="5", MAIL_TIMEOUT="2")
    with ImapServer(request.param) as server:
        server.inbox.append(*(message(n) for n in ALL))
        yield server


@pytest.mark.parametrize("uidvalidity", [0, None, "nonsense", 2**32 - 1])
def test_a_uidvalidity_of_any_kind(server: ImapServer, uidvalidity: int | str | None) -> None:
    server.inbox.uidvalidity = uidvalidity
    account = register(server)
    sync(account)

    server.inbox.append(message(31))
    server.inbox.expunge(3)
    sync(account)

    assert stored_uids() == [uid for uid in [*ALL, 31] if uid != 3]
    assert max(server.bodies.values()) == 1
    assert_counts_agree()


@pytest.mark.parametrize(
    "number", ["9223372036854775808", "9" * 30, "9" * 5000], ids=["64 bits", "30 digits", "5000 digits"]
)
@pytest.mark.parametrize("name", ["uidvalidity", "uidnext"])
def test_a_number_that_nothing_holds_costs_its_folder_until_it_passes(
    server: ImapServer, name: str, number: str
) -> None:
    account = register(server)
    server.add_folder("Work").append(message(99))
    setattr(server.inbox, name, number)
    failed = sync(account).failed_folders
    assert list(failed) == ["INBOX"]
    assert "too high" in failed["INBOX"]
    assert stored_uids("Work") == [1]

    setattr(server.inbox, name, 31)
    sync(account)

    assert stored_uids() == ALL


def test_no_uidnext(server: ImapServer) -> None:
    server.inbox.uidnext = None
    account = register(server)
    sync(account)
    server.inbox.append(message(31))
    server.inbox.expunge(30)

    sync(account)

    assert stored_uids() == [*ALL[:-1], 31]


def test_a_uidnext_that_was_far_too_high_once(server: ImapServer) -> None:
    account = register(server)
    server.inbox.uidnext = 4_000_000
    sync(account)
    server.inbox.uidnext = 31

    server.inbox.append(message(31), message(32))
    sync(account)

    assert stored_uids() == [*ALL, 31, 32]


def test_uidvalidity_changes_in_the_middle_of_a_first_sync(server: ImapServer) -> None:
    # Given a first sync that broke off in the middle
    server.on(BODIES, from_message(13, cut(100)), uid=13)
    account = register(server)
    with pytest.raises(TransientError):
        sync(account)
    ids = set(column("SELECT id FROM email_message"))
    assert 0 < len(ids) < len(ALL)

    # When all UIDs are others by the time it is tried again
    old = server.inbox
    new = server.add_folder("INBOX", uidvalidity=2)
    new.append(*(old.messages[uid].content() for uid in ALL), uid=1001)
    sync(account)

    # Then each message is there once, and what was stored was not stored again
    assert stored_uids() == [1000 + uid for uid in ALL]
    assert ids <= set(column("SELECT id FROM email_message"))
    assert quarantine() == {}
    assert_counts_agree()


@pytest.mark.parametrize(
    "path", ["Größe".encode(), b"Gr%F6%DFe", b"a {3} b", b'a "b"', b"(x)", b"NIL", "日本語".encode()]
)
def test_folder_names_in_eight_bits_and_in_literals(server: ImapServer, path: bytes) -> None:
    server.add_folder(path).append(message(1))

    sync(register(server))

    assert stored_uids(path.decode()) == [1]


def test_names_that_nobody_can_read_are_kept_apart(server: ImapServer) -> None:
    # Given names in no known charset, which look alike where bytes are replaced
    names = ["Größe".encode("latin-1"), "Grüße".encode("latin-1")]
    for number, name in enumerate(names, start=1):
        server.add_folder(name).append(*(message(100 * number + n) for n in range(number)))
    account = register(server)

    assert sync(account).failed_folders == {}
    sync(account)

    assert {name: stored_uids(name) for name in ("Gr%F6%DFe", "Gr%FC%DFe")} == {"Gr%F6%DFe": [1], "Gr%FC%DFe": [1, 2]}
    assert max(server.bodies.values()) <= 3


@pytest.mark.parametrize("path", [b"line\r\nbreak"])
def test_a_folder_whose_name_cannot_be_sent_keeps_no_other_from_its_mail(server: ImapServer, path: bytes) -> None:
    server.add_folder(path).append(message(1))

    tally = sync(register(server))

    assert len(tally.failed_folders) == 1
    assert stored_uids() == ALL
