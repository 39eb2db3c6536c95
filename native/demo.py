"""The demo mailbox: its mail, the IMAP server that holds it, and the account that syncs it."""

from pathlib import Path

from native.dovecot import Dovecot
from native.state import State

USER = "demo"


def mail_root(state: State) -> Path:
    """Where the mailbox is kept, as Maildir."""
    return state.demo / "mail"


def server(state: State, password: str, port: int) -> Dovecot:
    """The IMAP server of the demo mailbox."""
    return Dovecot(state.demo, mail_root(state), password, port=port)
