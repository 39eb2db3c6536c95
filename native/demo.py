"""The demo mailbox: its mail, the IMAP server that holds it, and the account that syncs it."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from native import dovecot
from native.dovecot import Dovecot
from native.pymap import Pymap
from native.state import State

USER = "demo"
ACCOUNT = "demo"
ADDRESS = "demo@example.org"
# The stack's programs whose ports accounts may name.
SERVERS = ("demo-imap", "demo-smtp")
_PYMAP = "pymap"


def mail_root(state: State) -> Path:
    """Where the mailbox is kept, as Maildir."""
    return state.demo / "mail"


def exists(state: State) -> bool:
    """Whether the demo mailbox has been made."""
    return (mail_root(state) / USER).exists()


def make(state: State) -> int:
    """Make the mailbox unless it exists.

    Returns how many messages were written. If two calls run at once, one makes it.
    """
    from native import maildir
    from native.demo_mail import demo_messages, folders

    state.create()
    with state.locked():
        if exists(state):
            return 0
        mail_root(state).mkdir(parents=True, exist_ok=True, mode=0o700)
        # Dovecot and pymap name folders differently on disk, so
        # a mailbox stays with the server for which it was made.
        with_dovecot = dovecot.is_usable()
        (state.demo / "server").write_text("dovecot" if with_dovecot else _PYMAP)
        return maildir.write(mail_root(state) / USER, folders(), demo_messages(), utf7=with_dovecot)


def server(state: State, password: str, port: int) -> Dovecot | Pymap:
    """The IMAP server of the demo mailbox."""
    if (state.demo / "server").read_text() == _PYMAP:
        return Pymap(state.demo, mail_root(state), USER, password, port=port)
    return Dovecot(state.demo, mail_root(state), password, port=port, sockets=state.run / "dovecot")


def smtp_command(state: State, port: int) -> list[str]:
    """The command line of the SMTP server that delivers into the mailbox; it holds no secret."""
    return [sys.executable, "-m", "native.smtp", str(state.folder), str(port)]


def register(tenant_id: str, user_id: str, password: str, port: int, smtp_port: int) -> None:
    """Make the account of the demo mailbox unless it exists.

    Store its password again if no key opens the stored one.
    """
    from tasks.errors import CredentialUnreadableError, NotFoundError
    from tasks.storage.accounts.rows import (
        AccountExistsError,
        NewAccount,
        add_account,
        change_password,
        find_account,
        read_secret,
    )

    try:
        found = find_account(tenant_id, ACCOUNT)
    except NotFoundError:
        new = NewAccount(ACCOUNT, ADDRESS, Dovecot.host, port, "none", USER, password, **_smtp(smtp_port))
        with contextlib.suppress(AccountExistsError):  # another `demo` was quicker
            add_account(tenant_id, user_id, new)
        return
    try:
        read_secret(found, found.credential_id)
    except CredentialUnreadableError:
        if found.email_address == ADDRESS and found.hostname == Dovecot.host:
            change_password(found, password)


def follow_servers(tenant_id: str, port: int, smtp_port: int) -> None:
    """Tell the account of the demo mailbox, if there is one, where its servers listen now."""
    from sqlalchemy import update

    from tasks.storage.models import EmailClient
    from tasks.storage.session import tenant_transaction

    with tenant_transaction(tenant_id) as connection:
        connection.execute(
            update(EmailClient)
            .where(EmailClient.tenant_id == tenant_id, EmailClient.email_address == ADDRESS)
            .where(EmailClient.hostname == Dovecot.host, EmailClient.account_name == ACCOUNT)
            .values(port=port, **_smtp(smtp_port))
        )


def _smtp(port: int) -> dict[str, Any]:
    return {"smtp_hostname": Dovecot.host, "smtp_port": port, "smtp_encryption": "none"}
