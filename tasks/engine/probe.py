"""Tries an account: connects, logs in, and reads what the server offers.

Receiving and sending are tried separately.
"""

from typing import NamedTuple

from tasks.engine.connect import connected, connected_pop3
from tasks.engine.connection_cache import lent_smtp
from tasks.errors import EmailError
from tasks.mail.kinds import MailProtocol
from tasks.storage.accounts.rows import Account, clear_error, record_failure, resume_sending


class Probe(NamedTuple):
    """What the server offers. `messages` is None where the server gives no counts without opening each folder."""

    capabilities: tuple[str, ...]
    folders: int
    messages: int | None


def probe(account: Account) -> Probe:
    """Try the account's IMAP or POP3 server and store the outcome on the account: success ends a pause.

    Raises an EmailError that says what is wrong.
    """
    try:
        found = _look_at_pop3(account) if account.protocol == MailProtocol.POP3 else _look_at_imap(account)
    except EmailError as error:
        record_failure(account, error)
        raise
    clear_error(account)
    return found


def probe_smtp(account: Account) -> None:
    """Try the account's SMTP server: success ends a pause of sending.

    Raises an EmailError that says what is wrong. A refused login is stored on the account.
    """
    with lent_smtp(account, fresh=True) as smtp:
        smtp.reset()
    resume_sending(account)


def _look_at_imap(account: Account) -> Probe:
    with connected(account) as imap:
        listed, statuses = imap.list_folders()
        messages = sum(status.messages for status in statuses.values()) if statuses else None
        return Probe(tuple(sorted(imap.capabilities)), len(listed), messages)


def _look_at_pop3(account: Account) -> Probe:
    with connected_pop3(account) as pop3:
        return Probe(tuple(sorted(pop3.capabilities)), 1, pop3.count())
