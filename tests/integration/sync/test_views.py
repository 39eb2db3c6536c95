"""Folders that show messages of others a second time, as Proton's bridge and others have them; scripted."""

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from manage import account, account_all_mail, account_show, cli
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_server import BASIC, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import column, rows, stored_uids

VIEWS = {"All Mail": "\\All", "Starred": "\\Flagged", "Wichtig": "\\Important"}


@pytest.fixture(params=[BASIC, QRESYNC], ids=["basic", "qresync"])
def server(request: pytest.FixtureRequest, database: Database) -> Iterator[ImapServer]:
    with ImapServer(request.param) as server:
        server.inbox.append(message(1), message(2))
        server.add_folder("Work").append(message(3))
        server.add_folder("Archiv", attributes="\\Archive \\All").append(message(4))
        for name, attribute in VIEWS.items():
            server.add_folder(name, attributes=attribute).append(message(1), message(2), message(3))
        yield server


@pytest.fixture(autouse=True)
def no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (account, account_all_mail, account_show):
        monkeypatch.setattr(module, "connect", lambda: None)


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.main, ["account", *arguments, "--tenant", TENANT])
    assert result.exit_code == 0, result.output
    return result


def grown_up_with_doubles(server: ImapServer) -> Account:
    """As an older release left it: with the choice of today, and the messages of yesterday."""
    found = register(server, all_mail="sync")
    sync(found)
    rows("UPDATE email_client SET all_mail = 'skip' RETURNING 1")
    return find_account(TENANT, found.id)


def test_each_message_is_stored_once_by_default(server: ImapServer) -> None:
    found = register(server)

    for _ in range(2):
        assert sync(found).failed_folders == {}

    assert rows("SELECT count(*), count(DISTINCT message_id) FROM email_message") == [(4, 4)]
    assert sum(server.bodies.values()) == 4
    assert stored_uids("Archiv") == [1]
    assert sorted(column("SELECT name FROM email_folder WHERE is_view")) == sorted(VIEWS)
    shown = invoke("show", found.account_name).output
    assert shown.count("left out") == 3
    assert "a second time;" not in invoke("list").output


def test_they_are_synced_where_that_is_chosen(server: ImapServer) -> None:
    found = register(server, all_mail="sync")

    sync(found)

    assert rows("SELECT count(*), count(DISTINCT message_id) FROM email_message") == [(13, 4)]
    # and dropped when it no longer is
    invoke("all-mail", found.account_name, "skip", "--yes")
    sync(find_account(TENANT, found.id))
    assert rows("SELECT count(*), count(DISTINCT message_id) FROM email_message") == [(4, 4)]
    invoke("all-mail", found.account_name, "sync")
    sync(find_account(TENANT, found.id))
    assert rows("SELECT count(*), count(DISTINCT message_id) FROM email_message") == [(13, 4)]


def test_an_account_that_synced_them_is_told_and_loses_nothing_by_itself(server: ImapServer) -> None:
    found = grown_up_with_doubles(server)
    server.folders[b"All Mail"].append(message(5))
    server.inbox.append(message(5))

    sync(found)

    # Nothing is dropped, and what is there is kept up to date
    assert rows("SELECT count(*), count(DISTINCT message_id) FROM email_message") == [(15, 5)]
    for command in (("list",), ("show", found.account_name)):
        said = invoke(*command).output
        assert "All Mail (4)" in said
        assert "account all-mail mail skip" in said
    # until a person says so
    answered = CliRunner().invoke(cli.main, ["account", "all-mail", "mail", "skip", "--tenant", TENANT], input="n\n")
    assert answered.exit_code == 1
    assert rows("SELECT count(*) FROM email_message") == [(15,)]
    assert "10 messages" in invoke("all-mail", "mail", "skip", "--yes").output
    assert rows("SELECT count(*), count(DISTINCT message_id) FROM email_message") == [(5, 5)]
    bodies = sum(server.bodies.values())
    sync(find_account(TENANT, found.id))
    assert sum(server.bodies.values()) == bodies
    assert rows("SELECT count(*) FROM email_message") == [(5,)]
    assert "a second time;" not in invoke("list").output


def test_one_such_folder_by_its_id_is_not_synced_either(server: ImapServer) -> None:
    found = register(server)
    sync(found)
    [view] = column("SELECT id FROM email_folder WHERE name = 'All Mail'")

    sync(found, folder_id=str(view))

    assert rows("SELECT count(*) FROM email_message") == [(4,)]
