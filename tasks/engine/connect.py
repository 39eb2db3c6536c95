"""Where an account's servers are and how it logs in there, and connections that are closed again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tasks.engine.complaints import complaints_counted
from tasks.engine.tokens import access_token
from tasks.errors import (
    AuthenticationFailedError,
    EmailError,
    LoginFailedError,
    MailServerUnavailableError,
    ProtocolError,
    SmtpLoginRefusedError,
    SmtpServerMissingError,
    TokenExpiredError,
    UnsupportedProtocolError,
)
from tasks.mail.connection import Endpoint
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.extensions import Refusals
from tasks.mail.kinds import Encryption, MailProtocol
from tasks.mail.login import Login
from tasks.mail.pop3.commands import Pop3Connection
from tasks.secrecy.secrets import without_secrets
from tasks.settings import get_settings
from tasks.storage.accounts.choices import keep_refusals
from tasks.storage.accounts.logins import (
    RECEIVING,
    SENDING,
    Side,
    begin_login,
    mechanism_of,
    note_login,
    note_refusal,
)
from tasks.storage.accounts.rows import Account
from tasks.storage.credentials import PASSWORD, read_credential_of_kind
from tasks.storage.session import tenant_transaction


class _Connection(Protocol):
    """An authenticated connection of any protocol."""

    login: Login

    @property
    def mechanism(self) -> str: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


C = TypeVar("C", bound=_Connection)


def endpoint_of(account: Account) -> Endpoint:
    """Where the account's IMAP or POP3 server is."""
    return _endpoint(account.hostname, account.port, account.encryption)


def smtp_endpoint_of(account: Account) -> Endpoint:
    """Where the account's SMTP server is. Raises SmtpServerMissingError where the account has none."""
    if account.smtp_hostname is None or account.smtp_port is None or account.smtp_encryption is None:
        raise SmtpServerMissingError(account.account_name)
    endpoint = _endpoint(account.smtp_hostname, account.smtp_port, account.smtp_encryption)
    return endpoint._replace(timeout=get_settings().send.timeout)


def login_of(account: Account, side: Side = RECEIVING, refused: str | None = None) -> Login:
    """How the account logs in on one side (receiving or sending). Without a login of its own, the SMTP server gets
    the login of the mailbox. An OAuth2 token is another one than the `refused` token.

    Raises CredentialUnreadableError, and for OAuth2 accounts what `tokens.access_token` raises.
    """
    username, credential_id = account.username, side.secret_of(account)
    if side is SENDING:
        username = account.smtp_username or username
    with tenant_transaction(account.tenant_id) as connection:
        kind, secret = read_credential_of_kind(connection, account.tenant_id, credential_id)
    mechanism = mechanism_of(account, side)
    if kind == PASSWORD:
        return Login(username, secret, mechanism=mechanism)
    token = access_token(account.tenant_id, credential_id, refused)
    return Login(username, token.secret, "oauth2", token.expires_at, mechanism)


def logged_in(account: Account, side: Side, connect: Callable[[Login], C]) -> C:
    """Call `connect` with the account's login, and return its result. Notes on the account whether the login worked;
    a refused login may pause the account.

    Raises AuthenticationFailedError if the side is paused now, LoginRefusedError or LoginFailedError if the login
    will be tried again, and LoginDelayedError while another task tries the login.
    """
    begin_login(account, side)
    try:
        connection = _with_fresh_token(account, side, connect)
    except (AuthenticationFailedError, LoginFailedError) as error:
        is_by_server = type(error) is AuthenticationFailedError  # not by the token endpoint
        raise note_refusal(
            account, side, SmtpLoginRefusedError(error.detail) if is_by_server and side is SENDING else error
        ) from None
    except EmailError as error:
        without_secrets(error)
        raise
    try:
        note_login(account, side, connection.mechanism)
    except BaseException:
        connection.abandon()
        raise
    return connection


def _with_fresh_token(account: Account, side: Side, connect: Callable[[Login], C]) -> C:
    """Call `connect`, and once more with a fresh token if the server refuses a token that has not expired.

    Providers end tokens early when a password changes, and clocks differ.
    """
    login = login_of(account, side)
    try:
        return connect(login)
    except (AuthenticationFailedError, LoginFailedError):
        if login.method == "password":
            raise
        return connect(login_of(account, side, refused=login.secret))


@contextmanager
def connected(account: Account) -> Iterator[ImapConnection]:
    """A connection to the account's IMAP server, closed afterwards. Raises UnsupportedProtocolError for POP3.

    If the access token expires during the session, the server's error is raised as TokenExpiredError.
    """
    if account.protocol != MailProtocol.IMAP:
        raise UnsupportedProtocolError(account.protocol)
    with complaints_counted(account.protocol, account.hostname), _closed(open_imap(account)) as imap:
        try:
            yield imap
        finally:
            remember(account, imap.refusals)


def open_imap(account: Account) -> ImapConnection:
    """A connection to the account's IMAP server, without the extensions that the server is known to refuse.

    After using the connection, the caller passes its `refusals` to `remember`, also after an error.
    """
    endpoint, max_bytes = endpoint_of(account), get_settings().sync.max_message_bytes
    refusals = Refusals(account.refused_extensions)
    try:
        return logged_in(account, RECEIVING, lambda login: ImapConnection(endpoint, login, max_bytes, refusals))
    finally:
        remember(account, refusals)


def remember(account: Account, refusals: Refusals) -> None:
    """Store which extensions the server offers and refuses, if the connection found new ones."""
    if refusals.has_changed:
        keep_refusals(account, refusals.known)
        refusals.has_changed = False


@contextmanager
def connected_pop3(account: Account) -> Iterator[Pop3Connection]:
    """A connection to the account's POP3 server. Deletions take effect if the block ends without an error.

    Raises UnsupportedProtocolError for IMAP, and TokenExpiredError as `connected` does.
    """
    if account.protocol != MailProtocol.POP3:
        raise UnsupportedProtocolError(account.protocol)
    endpoint, max_bytes = endpoint_of(account), get_settings().sync.max_message_bytes

    def connect(login: Login) -> Pop3Connection:
        return Pop3Connection(endpoint, login, max_bytes)

    with (
        complaints_counted(account.protocol, account.hostname),
        _closed(logged_in(account, RECEIVING, connect)) as pop3,
    ):
        yield pop3


@contextmanager
def _closed(connection: C) -> Iterator[C]:
    try:
        yield connection
    except BaseException as error:
        connection.abandon()
        without_secrets(error)
        if connection.login.has_expired and isinstance(error, MailServerUnavailableError | ProtocolError):
            raise TokenExpiredError(str(error)) from error
        raise
    connection.close()


def _endpoint(hostname: str, port: int, encryption: str) -> Endpoint:
    settings = get_settings().mail
    return Endpoint(
        hostname, port, Encryption(encryption), settings.timeout, settings.ssl_verify, settings.networks_at(port)
    )
