"""`account show`: the account and how complete each of its folders is."""

import json
import re
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from manage import account, account_show, cli
from tasks.errors import AuthenticationFailedError, LoginRefusedError
from tasks.storage.accounts.rows import change_password, change_smtp_password, find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_server import ImapServer
from tests.support.mailbox import message


@pytest.fixture
def server(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImapServer]:
    for module in (account, account_show):
        monkeypatch.setattr(module, "connect", lambda: None)
    with ImapServer() as server:
        server.inbox.append(*(message(n) for n in range(1, 4)))
        server.add_folder("Projects [old]").append(message(9))
        yield server


def show(*options: str) -> Result:
    return CliRunner().invoke(cli.main, ["account", "show", "mail", "--tenant", TENANT, *options])


def test_an_account_that_was_never_synced(server: ImapServer) -> None:
    register(server)

    result = show()

    assert result.exit_code == 0, result.output
    assert "not synced yet" in result.stdout


def test_servers_state_and_folders(server: ImapServer) -> None:
    account = register(
        server, smtp_hostname="smtp.example.org", smtp_port=465, smtp_encryption="tls", smtp_username="ada-sends"
    )
    change_smtp_password(account, "sample sending secret")
    sync(account)

    result = show()

    assert result.exit_code == 0, result.output
    for expected in (account.id, f"ada at 127.0.0.1:{server.port} (imap, none)", "ada-sends at smtp.example.org:465"):
        assert expected in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["synced", "every", "00:05:00"] in rows
    assert ["next", "sync", "due"] in rows
    assert ["INBOX", "3", "3", "0", "0"] in rows
    assert ["Projects", "[old]", "1", "1", "0", "0"] in rows


def test_for_machines(server: ImapServer) -> None:
    account = register(server)
    sync(account)

    shown = json.loads(show("--json").stdout)

    assert (shown["account_name"], shown["id"], shown["last_error"]) == ("mail", account.id, None)
    assert shown["receiving"] == {
        "hostname": "127.0.0.1",
        "port": server.port,
        "encryption": "none",
        "username": "ada",
    }
    inbox = shown["folders"][0]
    assert (inbox["name"], inbox["on_server"], inbox["stored"], inbox["missing"], inbox["why"]) == (
        "INBOX",
        3,
        3,
        0,
        "",
    )


def test_no_secret_is_shown(server: ImapServer) -> None:
    register(server)
    credential_id = find_account(TENANT, "mail").credential_id
    for result in (show(), show("--json")):
        assert server.password not in result.output
        assert credential_id not in result.output


def test_the_next_login_is_shown_unless_the_account_is_paused(server: ImapServer) -> None:
    account = register(server)
    sync(account)
    server.password = "changed"
    with pytest.raises(LoginRefusedError):
        sync(account)
    assert "next login to receive" in show().stdout
    assert re.search(r"^next sync +in ", show().stdout, re.MULTILINE)
    listed = CliRunner().invoke(cli.main, ["account", "list", "--tenant", TENANT]).stdout
    assert f"{LoginRefusedError.code}: " in "".join(listed.split("\n"))
    change_password(find_account(TENANT, "mail"), "mistyped")
    with pytest.raises(AuthenticationFailedError):
        sync(account)
    result = show()
    assert "receiving is paused" in result.stdout
    assert "next login" not in result.stdout
    assert re.search(r"^next sync +none by schedule$", result.stdout, re.MULTILINE)
