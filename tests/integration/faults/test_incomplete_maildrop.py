"""POP3 servers that list fewer messages than they count."""

from collections.abc import Callable, Iterator

import pytest

from tasks.storage.accounts.rows import find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_faults import rewrite
from tests.support.mailbox import message
from tests.support.pop3_server import Pop3Server
from tests.support.stored import column, rows


@pytest.fixture
def server(database: Database, environment: Callable[..., None]) -> Iterator[Pop3Server]:
    environment(MAIL_TIMEOUT="2")
    with Pop3Server() as server:
        server.messages = {f"id-{n}": message(n) for n in range(1, 6)}
        yield server


def test_messages_that_are_not_listed_are_missing(server: Pop3Server) -> None:
    account = register(server, protocol="pop3")
    rule = server.on("LIST", rewrite(rb"(?s)\r\n4 \d+\r\n5 \d+\r\n", b"\r\n"), times=None)

    tally = sync(account)

    assert [(folder.name, folder.missing) for folder in tally.incomplete] == [("INBOX", 2)]
    assert column("SELECT count(*) FROM email_message") == [3]
    assert find_account(TENANT, account.id).last_error_code == "mailbox_incomplete"

    # Nothing is removed by it, neither here nor by what follows
    rule.times = 0
    assert sync(account).incomplete == []
    assert column("SELECT count(*) FROM email_message") == [5]
    rule.times = None
    sync(account)
    assert column("SELECT count(*) FROM email_message") == [5]
    assert rows("SELECT server_count, missing_count, missing_reason FROM email_folder") == [(5, 2, "listing")]


def test_an_empty_maildrop_is_complete(server: Pop3Server) -> None:
    server.messages.clear()
    account = register(server, protocol="pop3")

    assert sync(account).incomplete == []
    assert rows("SELECT server_count, missing_count, missing_reason FROM email_folder") == [(0, 0, None)]
