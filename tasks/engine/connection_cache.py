"""Connections for sending, kept open by the process that made them: logging in takes longer than sending."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Protocol, TypeVar

from tasks.engine.complaints import complaints_counted
from tasks.engine.connect import endpoint_of, logged_in, open_imap, remember, smtp_endpoint_of
from tasks.errors import UnsupportedProtocolError
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.kinds import MailProtocol
from tasks.mail.login import Login
from tasks.mail.pool import Closable, Pool
from tasks.mail.smtp.commands import SmtpConnection
from tasks.secrecy.secrets import learn, without_secrets
from tasks.storage.accounts.logins import SENDING
from tasks.storage.accounts.rows import Account

# How many connections a process keeps for all accounts. Servers allow few per account and soon close idle ones.
_MOST = 8
_IDLE_SECONDS = 20


class _Connection(Closable, Protocol):
    login: Login


C = TypeVar("C", bound=_Connection)


@lru_cache(maxsize=1)
def smtp_pool() -> Pool[SmtpConnection]:
    """SMTP connections of this process that wait for the next message."""
    return Pool(_MOST, _IDLE_SECONDS)


@lru_cache(maxsize=1)
def imap_pool() -> Pool[ImapConnection]:
    """IMAP connections of this process that wait for the next copy to be filed."""
    return Pool(_MOST, _IDLE_SECONDS)


@contextmanager
def lent_smtp(account: Account, *, fresh: bool = False) -> Iterator[SmtpConnection]:
    """A connection to the account's SMTP server, given back afterwards. With `fresh`, a new connection."""
    endpoint = smtp_endpoint_of(account)
    # The key has the credential: after a change of the password no connection of the old password is used.
    key = (account.tenant_id, account.id, endpoint, account.smtp_credential_id or account.credential_id)

    def connect() -> SmtpConnection:
        return logged_in(account, SENDING, lambda login: SmtpConnection(endpoint, login))

    with complaints_counted("smtp", endpoint.hostname), _lent(smtp_pool(), key, connect, fresh=fresh) as smtp:
        yield smtp


@contextmanager
def lent_imap(account: Account) -> Iterator[ImapConnection]:
    """A connection to the account's IMAP server, given back afterwards. Raises UnsupportedProtocolError for POP3."""
    if account.protocol != MailProtocol.IMAP:
        raise UnsupportedProtocolError(account.protocol)
    key = (account.tenant_id, account.id, endpoint_of(account), account.credential_id)
    with (
        complaints_counted(account.protocol, account.hostname),
        _lent(imap_pool(), key, lambda: open_imap(account)) as imap,
    ):
        try:
            yield imap
        finally:
            remember(account, imap.refusals)


@contextmanager
def _lent(pool: Pool[C], key: Hashable, connect: Callable[[], C], *, fresh: bool = False) -> Iterator[C]:
    connection = (None if fresh else pool.take(key)) or connect()
    learn(connection.login.secret)  # a kept connection was opened by another task, which knew the secret
    try:
        yield connection
    except BaseException as error:
        connection.abandon()
        without_secrets(error)
        raise
    if connection.is_stale:
        connection.abandon()
    else:
        pool.give(key, connection)
