"""`account watch`: whether the server of a mailbox tells of changes at once, or the mailbox is polled alone."""

import shlex
from typing import TYPE_CHECKING

import click

from manage.examples import example
from manage.output import say
from manage.place import COMMAND
from manage.session import account_argument, connect, tenant_option

if TYPE_CHECKING:
    from tasks.storage.accounts.rows import Account

CHOICES = ("auto", "on", "off")


@example("account watch you@gmail.com off")
@click.command()
@account_argument
@click.argument("choice", type=click.Choice(CHOICES))
@tenant_option
def watch(account_name: str, choice: str, tenant: str) -> None:
    """Have an IMAP server tell of changes as they happen, over a connection that a watcher holds (auto); before other
    accounts, where not all can be watched (on); or poll the mailbox alone (off)."""
    connect()
    from tasks.storage.accounts.choices import choose_watch
    from tasks.storage.accounts.rows import find_account

    found = find_account(tenant, account_name)
    choose_watch(found, choice)
    if choice == "off":
        say("The mailbox is polled; its connection ends within seconds")
    else:
        say(f"A watcher takes it when one runs: {COMMAND} account show {shlex.quote(found.account_name)}")


def standing(found: "Account") -> str:
    """Whether the mailbox is watched now, in a few words."""
    if found.watched_since is not None:
        return f"{found.watch}: since {found.watched_since:%Y-%m-%d %H:%M %Z}"
    if found.watch_problem is not None:
        return f"{found.watch}: polled, as {found.watch_problem}"
    return f"{found.watch}: polled"
