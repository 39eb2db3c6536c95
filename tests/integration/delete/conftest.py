"""Mailboxes on real Dovecots: one that offers all it can, and some that own up to less."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from native.dovecot import Dovecot
from native.errors import StackError
from tasks.engine.delete.messages import DeleteRequest, delete_messages
from tests.conftest import MAIL_PASSWORD, TENANT, USER, unavailable
from tests.support.mailbox import Mailbox
from tests.support.stored import column

# Clients use what is offered, so a server that does not name a capability is, to them, one that has not got it.
LEVELS = {
    "MOVE and UIDPLUS": "",
    "MOVE alone": "imap_capability = IMAP4rev1 MOVE SPECIAL-USE",
    "UIDPLUS alone": "imap_capability = IMAP4rev1 UIDPLUS SPECIAL-USE",
}
NEITHER = "imap_capability = IMAP4rev1 SPECIAL-USE"

_numbers = itertools.count(1)

Delete = Callable[..., int]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Dovecot]]:
    """A Dovecot for each level."""
    running: dict[str, Dovecot] = {}
    try:
        for level, config in {**LEVELS, "neither": NEITHER}.items():
            root = tmp_path_factory.mktemp("dovecot")
            server = Dovecot(root / "server", root / "mail", MAIL_PASSWORD, extra_config=config)
            server.start()
            running[level] = server
        yield running
    except StackError as error:
        unavailable(str(error))
    finally:
        for server in running.values():
            server.stop()


def new_mailbox(server: Dovecot) -> Mailbox:
    """An empty one with a Trash."""
    mailbox = Mailbox(server.host, server.port, f"doomed{next(_numbers)}", MAIL_PASSWORD)
    mailbox.create("Trash")
    return mailbox


@pytest.fixture(params=LEVELS)
def mailbox(request: pytest.FixtureRequest, servers: dict[str, Dovecot]) -> Mailbox:
    """A mailbox at each level."""
    return new_mailbox(servers[request.param])


@pytest.fixture
def poor_mailbox(servers: dict[str, Dovecot]) -> Mailbox:
    """A mailbox on a server that has neither MOVE nor UIDPLUS."""
    return new_mailbox(servers["neither"])


@pytest.fixture
def delete() -> Delete:
    """One run of a task; a second one with the same `task` is to do the same."""

    def run(
        ids: list[str], *, permanent: bool = False, task: str = "task", user: str = USER, tenant: str = TENANT
    ) -> int:
        return delete_messages(DeleteRequest(tenant, user, ids, permanent), task, task, 600)

    return run


def ids_of(*numbers: int) -> list[str]:
    """The ids of the messages with these Message-IDs."""
    found = column(
        "SELECT id FROM email_message WHERE message_id = ANY(:wanted) ORDER BY message_id",
        wanted=[f"{number}@example.org" for number in numbers],
    )
    assert len(found) == len(numbers)
    return [str(one) for one in found]
