"""Where an account's servers are and how it logs in there, and connections that are closed again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tasks.engine.tokens import access_token
from tasks.errors import (
    AuthenticationFailedError,
    MailServerUnavailableError,
    ProtocolError,
    SmtpServerMissingError,
    TokenExpiredError,
    UnsupportedProtocolError,
)
from tasks.mail.connection import Endpoint
from tasks.mail.imap import ImapConnection
from tasks.mail.login import Login
from tasks.mail.pop3 import Pop3Connection
from tasks.settings import get_settings
from tasks.storage.accounts import Account
from tasks.storage.credentials import PASSWORD, read_credential_of_kind
from tasks.storage.session import tenant_transaction


class _Connection(Protocol):
    """An authenticated connection of any protocol."""

    login: Login

    def close(self) -> None: ...

    def abandon(self) -> None: ...


T = TypeVar("T")
C = TypeVar("C", bound=_Connection)


def endpoint_of(account: Account) -> Endpoint:
    """Where the account's IMAP or POP3 server is."""
    return _endpoint(account.hostname, account.port, account.encryption)


def smtp_endpoint_of(account: Account) -> Endpoint:
    """Where the account's SMTP server is. Raises SmtpServerMissingError where it has none."""
    if account.smtp_hostname is None or account.smtp_port is None or account.smtp_encryption is None:
        raise SmtpServerMissingError(account.account_name)
    endpoint = _endpoint(account.smtp_hostname, account.smtp_port, account.smtp_encryption)
    return endpoint._replace(timeout=get_settings().send.timeout)


class LoginOf(Protocol):
    """`login_of` or `smtp_login_of`."""

    def __call__(self, account: Account, refused: str | None = None) -> Login: ...


def login_of(account: Account, refused: str | None = None) -> Login:
    """How the account logs in at its IMAP or POP3 server; with a token other than the one that was `refused`.

    Raises CredentialUnreadableError, and of OAuth2 accounts what `tokens.access_token` raises.
    """
    return _login(account.tenant_id, account.username, account.credential_id, refused)


def smtp_login_of(account: Account, refused: str | None = None) -> Login:
    """How the account logs in at its SMTP server: as at its mailbox, where nothing else is said."""
    credential_id = account.smtp_credential_id or account.credential_id
    return _login(account.tenant_id, account.smtp_username or account.username, credential_id, refused)


def logged_in(account: Account, get_login: LoginOf, connect: Callable[[Login], T]) -> T:
    """What `connect` gives. A token that the server refuses, though it has not expired, is refreshed once.

    Whatever refused it: a provider ends tokens early when a password changes, and clocks differ.
    """
    login = get_login(account)
    try:
        return connect(login)
    except AuthenticationFailedError:
        if login.method == "password":
            raise
        return connect(get_login(account, refused=login.secret))


@contextmanager
def connected(account: Account) -> Iterator[ImapConnection]:
    """A connection to the account's IMAP server, closed afterwards. Raises UnsupportedProtocolError for POP3.

    What a server does when the token ends in the middle is raised as TokenExpiredError.
    """
    if account.protocol != "imap":
        raise UnsupportedProtocolError(account.protocol)
    endpoint, max_bytes = endpoint_of(account), get_settings().sync.max_message_bytes
    with _closed(logged_in(account, login_of, lambda login: ImapConnection(endpoint, login, max_bytes))) as imap:
        yield imap


@contextmanager
def connected_pop3(account: Account) -> Iterator[Pop3Connection]:
    """A connection to the account's POP3 server. What is deleted there is gone when the block ends well, else kept.

    Raises UnsupportedProtocolError for IMAP, and TokenExpiredError as `connected` does.
    """
    if account.protocol != "pop3":
        raise UnsupportedProtocolError(account.protocol)
    endpoint, max_bytes = endpoint_of(account), get_settings().sync.max_message_bytes
    with _closed(logged_in(account, login_of, lambda login: Pop3Connection(endpoint, login, max_bytes))) as pop3:
        yield pop3


@contextmanager
def _closed(connection: C) -> Iterator[C]:
    try:
        yield connection
    except BaseException as error:
        connection.abandon()
        if connection.login.has_expired and isinstance(error, MailServerUnavailableError | ProtocolError):
            raise TokenExpiredError(str(error)) from error
        raise
    connection.close()


def _login(tenant_id: str, username: str, credential_id: str, refused: str | None) -> Login:
    with tenant_transaction(tenant_id) as connection:
        kind, secret = read_credential_of_kind(connection, tenant_id, credential_id)
    if kind == PASSWORD:
        return Login(username, secret)
    token = access_token(tenant_id, credential_id, refused)
    return Login(username, token.secret, "oauth2", token.expires_at)


def _endpoint(hostname: str, port: int, encryption: str) -> Endpoint:
    settings = get_settings().mail
    return Endpoint(hostname, port, encryption, settings.timeout, settings.ssl_verify, settings.allowed_networks)
