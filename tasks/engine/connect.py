"""Where an account's servers are and how it logs in there, and connections that are closed again."""

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import SmtpServerMissingError, UnsupportedProtocolError
from tasks.mail.connection import Endpoint
from tasks.mail.imap import ImapConnection
from tasks.mail.login import Login
from tasks.mail.pop3 import Pop3Connection
from tasks.settings import get_settings
from tasks.storage.accounts import Account, read_secret


def endpoint_of(account: Account) -> Endpoint:
    """Where the account's IMAP or POP3 server is."""
    return _endpoint(account.hostname, account.port, account.encryption)


def smtp_endpoint_of(account: Account) -> Endpoint:
    """Where the account's SMTP server is. Raises SmtpServerMissingError where it has none."""
    if account.smtp_hostname is None or account.smtp_port is None or account.smtp_encryption is None:
        raise SmtpServerMissingError(account.account_name)
    endpoint = _endpoint(account.smtp_hostname, account.smtp_port, account.smtp_encryption)
    return endpoint._replace(timeout=get_settings().send.timeout)


def login_of(account: Account) -> Login:
    """How the account logs in at its IMAP or POP3 server. Raises CredentialUnreadableError."""
    return Login(account.username, read_secret(account, account.credential_id))


def smtp_login_of(account: Account) -> Login:
    """How the account logs in at its SMTP server: as at its mailbox, where nothing else is said."""
    secret = read_secret(account, account.smtp_credential_id or account.credential_id)
    return Login(account.smtp_username or account.username, secret)


@contextmanager
def connected(account: Account) -> Iterator[ImapConnection]:
    """A connection to the account's IMAP server, closed afterwards. Raises UnsupportedProtocolError for POP3."""
    if account.protocol != "imap":
        raise UnsupportedProtocolError(account.protocol)
    imap = ImapConnection(endpoint_of(account), login_of(account), get_settings().sync.max_message_bytes)
    try:
        yield imap
    except BaseException:
        imap.abandon()
        raise
    imap.close()


@contextmanager
def connected_pop3(account: Account) -> Iterator[Pop3Connection]:
    """A connection to the account's POP3 server. What is deleted there is gone when the block ends well, else kept.

    Raises UnsupportedProtocolError for IMAP.
    """
    if account.protocol != "pop3":
        raise UnsupportedProtocolError(account.protocol)
    pop3 = Pop3Connection(endpoint_of(account), login_of(account), get_settings().sync.max_message_bytes)
    try:
        yield pop3
    except BaseException:
        pop3.abandon()
        raise
    pop3.close()


def _endpoint(hostname: str, port: int, encryption: str) -> Endpoint:
    settings = get_settings().mail
    return Endpoint(hostname, port, encryption, settings.timeout, settings.ssl_verify, settings.allowed_networks)
