"""Notes on an account which extensions its server refuses, and what its owner chose about views and watching."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import update

from tasks.storage.accounts.rows import Account
from tasks.storage.models import EmailClient
from tasks.storage.session import tenant_transaction


def keep_refusals(account: Account, refused: Mapping[str, Mapping[str, Any]]) -> None:
    """Note the extensions that the account's server offers and refuses, in the form of `mail.imap.extensions`."""
    _set(account, refused_extensions=dict(refused))


def choose_all_mail(account: Account, choice: str) -> None:
    """Store whether views (folders that show messages a second time) are left out: `skip` or `sync`."""
    _set(account, all_mail=choice)


def choose_watch(account: Account, choice: str) -> None:
    """Store whether the mailbox is watched: `auto`, `on` (before those with `auto`, where not all can be), or `off`.

    A watcher that could not watch it tries again.
    """
    _set(account, watch=choice, watch_retry_at=None, watch_problem=None)


def _set(account: Account, **values: object) -> None:
    where = (EmailClient.tenant_id == account.tenant_id, EmailClient.id == account.id)
    with tenant_transaction(account.tenant_id) as connection:
        connection.execute(update(EmailClient).where(*where).values(**values))
