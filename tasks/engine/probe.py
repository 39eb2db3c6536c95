"""Tries an account: connects, logs in, and looks at what is there."""

from typing import NamedTuple

from tasks.engine.connect import connected, connected_pop3
from tasks.engine.reuse import lent_smtp
from tasks.errors import AuthenticationFailedError, EmailError
from tasks.storage.accounts import Account, clear_error, record_failure


class Probe(NamedTuple):
    """What the server offers. `messages` is None where it does not say without opening each folder."""

    capabilities: tuple[str, ...]
    folders: int
    messages: int | None


def probe(account: Account) -> Probe:
    """Try the account's servers and keep how it went: success ends a pause.

    Raises an EmailError that says what is wrong.
    """
    try:
        found = _look_at_pop3(account) if account.protocol == "pop3" else _look_at_imap(account)
        if account.smtp_hostname is not None:
            with lent_smtp(account, fresh=True) as smtp:
                smtp.reset()
    except EmailError as error:
        record_failure(account, error, pause=isinstance(error, AuthenticationFailedError))
        raise
    clear_error(account)
    return found


def _look_at_imap(account: Account) -> Probe:
    with connected(account) as imap:
        listed, statuses = imap.list_folders()
        messages = sum(status.messages for status in statuses.values()) if statuses else None
        return Probe(tuple(sorted(imap.capabilities)), len(listed), messages)


def _look_at_pop3(account: Account) -> Probe:
    with connected_pop3(account) as pop3:
        return Probe(tuple(sorted(pop3.capabilities)), 1, pop3.count())
