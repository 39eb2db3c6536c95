"""Adding an account: where the password may come from."""

from typing import Any

import pytest
from click.testing import CliRunner, Result

from manage import account, cli
from tasks.storage import accounts
from tasks.storage.accounts import NewAccount


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[NewAccount]:
    """What would have been stored."""
    found: list[NewAccount] = []

    def add_account(tenant: str, user: str, new: NewAccount) -> str:
        found.append(new)
        return "id-1"

    monkeypatch.setattr(account, "connect", lambda: None)
    monkeypatch.setattr(accounts, "add_account", add_account)
    return found


def add(*arguments: str, **options: Any) -> Result:
    command = ["account", "add", "--email", "me@example.org", "--hostname", "imap.example.org", *arguments]
    return CliRunner().invoke(cli.main, command, **options)


def test_the_password_comes_from_standard_input(added: list[NewAccount]) -> None:
    result = add("--password-stdin", input="p@ss word \n")
    assert result.stdout == "id-1\n"
    assert added[0].password == "p@ss word "
    assert "p@ss" not in result.output


def test_there_is_no_option_for_the_password(added: list[NewAccount]) -> None:
    assert add("--password", "secret").exit_code == 2


def test_without_a_terminal_nothing_is_asked(added: list[NewAccount]) -> None:
    result = add(input="secret\n")
    assert result.exit_code == 2
    assert "--password-stdin" in result.stderr


def test_an_empty_password_is_refused(added: list[NewAccount]) -> None:
    assert add("--password-stdin", input="\n").exit_code == 2


@pytest.mark.parametrize(("encryption", "port"), [("tls", 993), ("starttls", 143), ("none", 143)])
def test_the_port_follows_the_encryption(added: list[NewAccount], encryption: str, port: int) -> None:
    add("--encryption", encryption, "--password-stdin", input="x\n")
    assert (added[0].port, added[0].account_name, added[0].username) == (port, "me@example.org", "me@example.org")


def test_a_password_in_the_clear_is_warned_of(added: list[NewAccount]) -> None:
    assert "readable by anyone" in add("--encryption", "none", "--password-stdin", input="x\n").stderr
    local = add("--encryption", "none", "--hostname", "127.0.0.1", "--password-stdin", input="x\n")
    assert "readable by anyone" not in local.stderr


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, str]]:
    """Whose password would have been changed, to what."""
    found: list[tuple[Any, str]] = []
    monkeypatch.setattr(account, "connect", lambda: None)
    monkeypatch.setattr(accounts, "find_account", lambda tenant, name: (tenant, name))
    monkeypatch.setattr(accounts, "change_password", lambda *arguments: found.append(arguments))
    return found


def test_a_password_is_changed_from_standard_input(changed: list[tuple[Any, str]]) -> None:
    result = CliRunner().invoke(cli.main, ["account", "password", "mine", "--password-stdin"], input="n@w one \n")
    assert result.exit_code == 0
    assert changed == [(("default", "mine"), "n@w one ")]
    assert "n@w" not in result.output


def test_a_new_password_is_no_argument(changed: list[tuple[Any, str]]) -> None:
    for arguments in (["mine", "secret"], ["mine", "--password", "secret"], ["mine"]):
        assert CliRunner().invoke(cli.main, ["account", "password", *arguments]).exit_code == 2
    assert changed == []
