"""Accounts are registered and removed."""

from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import delete, func, insert
from sqlalchemy.exc import IntegrityError

from tasks.errors import PermanentError
from tasks.mail.kinds import MailProtocol
from tasks.mail.message import PARSER_VERSION
from tasks.settings import get_settings
from tasks.storage.accounts.grants import Grant, add_grant
from tasks.storage.accounts.rows.account import Account, is_row_of
from tasks.storage.credentials import add_credential, remove_credential
from tasks.storage.events import tell
from tasks.storage.ids import new_id
from tasks.storage.models import EmailClient
from tasks.storage.session import tenant_transaction
from tasks.storage.states import EventType


class AccountExistsError(PermanentError):
    """An account of this name exists already."""

    code = "account_exists"


class NewAccount(NamedTuple):
    """What a person gives to register an account. `password` is a password or an OAuth2 grant.

    Messages are left on a POP3 server for `pop3_keep_days` after they were stored; None: for ever. Without
    `smtp_username` and `smtp_password` the SMTP server gets the login of the mailbox.
    """

    account_name: str
    email_address: str
    hostname: str
    port: int
    encryption: str
    username: str
    password: str | Grant
    protocol: str = MailProtocol.IMAP
    pop3_keep_days: int | None = None
    smtp_hostname: str | None = None
    smtp_port: int | None = None
    smtp_encryption: str | None = None
    smtp_username: str | None = None
    smtp_password: str | None = None
    sent_copies: str = "auto"
    all_mail: str = "skip"
    watch: str = "auto"


def add_account(tenant_id: str, user_id: str, new: NewAccount) -> str:
    """Register an account with its secret encrypted, and return its id. Raises AccountExistsError."""
    account_id = new_id()
    try:
        with tenant_transaction(tenant_id) as connection:
            columns = new._asdict()
            # Host names ignore case (RFC 4343), and connections to a host are counted by its name.
            columns |= {name: columns[name] and columns[name].lower() for name in ("hostname", "smtp_hostname")}
            password, smtp_password = columns.pop("password"), columns.pop("smtp_password")
            if isinstance(password, Grant):
                columns["credential_id"] = add_grant(connection, tenant_id, password)
            else:
                columns["credential_id"] = add_credential(connection, tenant_id, password)
            if smtp_password is not None:
                columns["smtp_credential_id"] = add_credential(connection, tenant_id, smtp_password)
            connection.execute(
                insert(EmailClient).values(
                    tenant_id=tenant_id,
                    id=account_id,
                    user_id=user_id,
                    sync_interval=get_settings().sync.interval_seconds,
                    reread_version=PARSER_VERSION,
                    # A worker of the release before, with an older parser, may make the first sync.
                    reread_again_at=func.now() + timedelta(days=1),
                    **columns,
                )
            )
    except IntegrityError as error:
        if "account_name" in str(error.orig):
            raise AccountExistsError(new.account_name) from None
        raise
    return account_id


def remove_account(account: Account) -> None:
    """Remove the account with its folders, messages and secrets."""
    with tenant_transaction(account.tenant_id) as connection:
        # The row is read again, because the account may have got other secrets since `account` was read.
        secrets = connection.execute(
            delete(EmailClient)
            .where(*is_row_of(account))
            .returning(EmailClient.credential_id, EmailClient.smtp_credential_id)
        ).one_or_none()
        if secrets is not None:
            tell(connection, account.tenant_id, account.id, EventType.ACCOUNT_REMOVED, {})
        for credential_id in filter(None, secrets or ()):
            remove_credential(connection, account.tenant_id, credential_id)
