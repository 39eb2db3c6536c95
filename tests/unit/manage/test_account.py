"""Adding an account: where the password may come from."""

from typing import Any

import pytest
from click.testing import CliRunner, Result

from manage import account, account_add, cli
from tasks.storage.accounts import rows
from tasks.storage.accounts.grants import Grant, Secrets
from tasks.storage.accounts.rows import NewAccount

OAUTH2 = ("--oauth2", "google", "--client-id", "client", "--password-stdin")


def add_oauth2(*arguments: str, stdin: str = "refresh token\nclient secret\n") -> Result:
    return CliRunner().invoke(cli.main, ["account", "add", "--email", "me@example.org", *arguments], input=stdin)


def test_a_known_provider_needs_no_server_names(added: list[NewAccount]) -> None:
    result = add_oauth2(*OAUTH2)
    assert result.exit_code == 0, result.output
    new = added[0]
    assert (new.hostname, new.port, new.encryption) == ("imap.gmail.com", 993, "tls")
    assert (new.smtp_hostname, new.smtp_port, new.smtp_encryption) == ("smtp.gmail.com", 465, "tls")
    grant = new.password
    assert isinstance(grant, Grant)
    assert grant.secrets == Secrets("refresh token", "client secret")
    assert grant.token_endpoint == "https://oauth2.googleapis.com/token"
    assert "refresh token" not in result.output
    assert "refresh token" not in repr(grant)


def test_a_public_client_has_no_secret(added: list[NewAccount]) -> None:
    add_oauth2("--oauth2", "microsoft", "--client-id", "c", "--password-stdin", stdin="refresh token\n")
    assert isinstance(added[0].password, Grant)
    assert added[0].password.secrets == Secrets("refresh token", None)
    assert (added[0].smtp_hostname, added[0].smtp_port, added[0].smtp_encryption) == (
        "smtp.office365.com", 587, "starttls",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("--oauth2", "google", "--password-stdin"), "--client-id"),
        (("--oauth2", "other", "--client-id", "c", "--hostname", "h", "--password-stdin"), "--token-endpoint"),
        ((*OAUTH2, "--token-endpoint", "http://insecure.example"), "https"),
        (("--oauth2", "other", "--client-id", "c", "--token-endpoint", "https://t.example"), "--hostname"),
        (("--password-stdin",), "--hostname"),
    ],
)
def test_what_is_missing_is_named(added: list[NewAccount], arguments: tuple[str, ...], missing: str) -> None:
    result = add_oauth2(*arguments)
    assert result.exit_code == 2
    assert missing in result.stderr
    assert not added


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[NewAccount]:
    """What would have been stored."""
    found: list[NewAccount] = []

    def add_account(tenant: str, user: str, new: NewAccount) -> str:
        found.append(new)
        return "id-1"

    monkeypatch.setattr(account_add, "connect", lambda: None)
    monkeypatch.setattr(rows, "add_account", add_account)
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
    monkeypatch.setattr(rows, "find_account", lambda tenant, name: (tenant, name))
    monkeypatch.setattr(rows, "uses_oauth2", lambda account: account[1] == "by token")
    monkeypatch.setattr(rows, "change_password", lambda *arguments: found.append(arguments))
    monkeypatch.setattr(rows, "change_refresh_token", lambda *arguments: found.append(arguments))
    monkeypatch.setattr(rows, "change_smtp_password", lambda *arguments: found.append(("smtp", *arguments)))
    return found


def test_a_password_is_changed_from_standard_input(changed: list[tuple[Any, str]]) -> None:
    result = CliRunner().invoke(cli.main, ["account", "password", "mine", "--password-stdin"], input="n@w one \n")
    assert result.exit_code == 0
    assert changed == [(("default", "mine"), "n@w one ")]
    assert "n@w" not in result.output


@pytest.mark.parametrize("name", ["mine", "by token"])
def test_the_smtp_server_gets_a_password_of_its_own(changed: list[tuple[Any, ...]], name: str) -> None:
    arguments = ["account", "password", "--smtp", name, "--password-stdin"]
    assert CliRunner().invoke(cli.main, arguments, input="n@w one \n").exit_code == 0
    assert changed == [("smtp", ("default", name), "n@w one ")]


@pytest.mark.parametrize(("given", "client_secret"), [("t\n", None), ("t\nclient\n", "client")])
def test_an_oauth2_account_gets_a_new_refresh_token(
    changed: list[tuple[Any, ...]], given: str, client_secret: str | None
) -> None:
    CliRunner().invoke(cli.main, ["account", "password", "by token", "--password-stdin"], input=given)
    assert changed == [(("default", "by token"), "t", client_secret)]


def test_a_new_password_is_no_argument(changed: list[tuple[Any, str]]) -> None:
    for arguments in (["mine", "secret"], ["mine", "--password", "secret"], ["mine"]):
        assert CliRunner().invoke(cli.main, ["account", "password", *arguments]).exit_code == 2
    assert changed == []


POP3 = ("--email", "me@example.org", "--hostname", "pop.example.org", "--password-stdin")


@pytest.mark.parametrize(("encryption", "port"), [("tls", 995), ("starttls", 110)])
def test_a_pop3_account(added: list[NewAccount], encryption: str, port: int) -> None:
    arguments = (*POP3, "--protocol", "pop3", "--encryption", encryption, "--keep-days", "7")
    result = CliRunner().invoke(cli.main, ["account", "add", *arguments], input="sample\n")
    assert result.exit_code == 0, result.output
    assert (added[0].protocol, added[0].port, added[0].pop3_keep_days) == ("pop3", port, 7)


def test_only_pop3_has_days_to_keep(added: list[NewAccount]) -> None:
    result = CliRunner().invoke(cli.main, ["account", "add", *POP3, "--keep-days", "7"], input="sample\n")
    assert result.exit_code == 2
    assert "--keep-days" in result.stderr
    assert not added
