"""What a real server says that cannot look up passwords, closes an account, or refuses a password."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native.dovecot import Dovecot
from native.errors import StackError
from native.unprivileged import Identity
from tasks.errors import AuthenticationFailedError, LoginRefusedError, MailServerBusyError, TransientError
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import TENANT, Database, register, sync, unavailable
from tests.support.mailbox import Mailbox, message
from tests.support.stored import rows

PASSWORD = "sample-password"
# `closed` may not log in now.
_USERS = f"closed:{{PLAIN}}second::::::nologin=y\neve:{{PLAIN}}{PASSWORD}::::::\nbob:{{PLAIN}}{PASSWORD}::::::\n"


class FileOfUsers(Dovecot):
    """Asks a program for passwords, which knows none or is out of order while there is a file `away`, then a file."""

    def __init__(self, root: Path, users: Path) -> None:
        super().__init__(root / "server", root / "mail", PASSWORD, pop3=True)
        self._users = users

    def _config(self, who: Identity) -> str:
        check = self._users.with_name("check")
        check.write_text(f"#!/bin/sh\ntest -e {self._users.with_name('away')} && exit 111\nexit 1\n")
        check.chmod(0o755)
        look_up = (
            f"auth_failure_delay = 1 secs\npassdb {{\n  driver = checkpassword\n  args = {check}\n}}\n"
            f"passdb {{\n  driver = passwd-file\n  args = {self._users}\n}}"
        )
        # Else each login from our address would wait for as long as there were wrong ones before it.
        no_penalty = "service anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n"
        config = re.sub(r"(?s)passdb \{.*?\n\}", lambda _: look_up, super()._config(who), count=1)
        return config + no_penalty


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, readable for a server that runs as another user."""
    folder = tmp_path_factory.mktemp("users")
    folder.chmod(0o755)
    for parent in folder.parents:
        if parent.is_relative_to("/tmp") and parent.owner() == folder.owner():
            parent.chmod(parent.stat().st_mode | 0o011)
    file = folder / "users"
    file.write_text(_USERS)
    file.chmod(0o644)
    return file


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, users: Path) -> Iterator[Dovecot]:
    root = tmp_path_factory.mktemp("dovecot")
    dovecot = FileOfUsers(root, users)
    try:
        dovecot.start()
    except StackError as error:
        unavailable(str(error))
    yield dovecot
    dovecot.stop()


@pytest.fixture(params=["imap", "pop3"])
def make_account(request: pytest.FixtureRequest, database: Database, server: Dovecot) -> Callable[..., Account]:
    """An account of a user and a password there."""

    def make(user: str, password: str) -> Account:
        port = server.port if request.param == "imap" else server.pop3_port
        return register(Mailbox(server.host, port, user, password), protocol=request.param)

    return make


def test_a_password_database_that_is_away_pauses_nobody(make_account: Callable[..., Account], users: Path) -> None:
    away = users.with_name("away")
    away.touch()
    try:
        account = make_account("ada", "not the one")
        with pytest.raises(MailServerBusyError, match=r"(?i)temporar"):
            sync(account)
    finally:
        away.unlink()
    assert find_account(TENANT, account.id).paused_at is None


def test_an_account_that_is_closed_for_now_is_not_a_wrong_password(make_account: Callable[..., Account]) -> None:
    account = make_account("closed", "second")
    with pytest.raises(TransientError, match="Login disabled"):
        sync(account)
    assert find_account(TENANT, account.id).paused_at is None


def test_a_wrong_password_is_refused_and_one_that_worked_is_tried_again(
    make_account: Callable[..., Account], server: Dovecot
) -> None:
    account = make_account("bob", "not the one")
    with pytest.raises(AuthenticationFailedError):
        sync(account)
    assert find_account(TENANT, account.id).paused_at is not None

    # One that worked: as when the server forgot it
    rows("UPDATE email_client SET paused_at = NULL, login_mechanism = 'PLAIN', login_retry_at = NULL RETURNING 1")
    with pytest.raises(LoginRefusedError):
        sync(account)
    refused = find_account(TENANT, account.id)
    assert (refused.paused_at, refused.last_error_code) == (None, "login_refused")


def test_what_a_login_went_by_is_remembered(make_account: Callable[..., Account], server: Dovecot) -> None:
    Mailbox(server.host, server.port, "eve", PASSWORD).append([message(1)])
    account = make_account("eve", PASSWORD)
    sync(account)
    assert find_account(TENANT, account.id).login_mechanism == "PLAIN"


@pytest.mark.parametrize(
    ("protocol", "mechanisms", "used"),
    [
        ("imap", "cram-md5", "CRAM-MD5"),
        ("pop3", "cram-md5", "CRAM-MD5"),
        ("pop3", "login", "LOGIN"),
        ("imap", "plain login cram-md5", "PLAIN"),
        ("pop3", "plain login cram-md5", "PLAIN"),
    ],
)
def test_each_mechanism_logs_in_where_it_is_all_there_is(
    database: Database, tmp_path: Path, protocol: str, mechanisms: str, used: str
) -> None:
    offers = f"auth_mechanisms = {mechanisms}"
    with Dovecot(tmp_path / "server", tmp_path / "mail", PASSWORD, extra_config=offers, pop3=True) as dovecot:
        port = dovecot.port if protocol == "imap" else dovecot.pop3_port
        account = register(Mailbox(dovecot.host, port, "ada", PASSWORD), protocol=protocol)
        sync(account)
        assert find_account(TENANT, account.id).login_mechanism == used
        sync(find_account(TENANT, account.id))
