"""`account`: the mailboxes that are synced."""

import sys
from typing import TYPE_CHECKING

import click

from manage.account_add import add, read_client_secret, read_secret
from manage.account_all_mail import advice, all_mail
from manage.account_audit import audit
from manage.account_show import remedies, show, state
from manage.account_watch import watch
from manage.advice import explained
from manage.examples import example
from manage.output import ago, complain, confirm, print_json, say, table, tell
from manage.place import COMMAND, LOOK_AT_HEALTH
from manage.session import account_argument, connect, tenant_option

if TYPE_CHECKING:
    from tasks.storage.accounts.rows import Account


@click.group()
def account() -> None:
    """Add, list, show, audit, test and remove mail accounts, and change their passwords."""


account.add_command(add)
account.add_command(all_mail)
account.add_command(watch)
account.add_command(show)
account.add_command(audit)


@example("account list --tenant default")
@account.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def list_(as_json: bool, tenant: str) -> None:
    """List the accounts, when each was synced, and what is wrong with it."""
    connect()
    from tasks.storage.accounts.rows import list_accounts

    accounts = list_accounts(tenant)
    if as_json:
        print_json([{k: v for k, v in found._asdict().items() if k != "credential_id"} for found in accounts])
        return
    if not accounts:
        say(f"There are no accounts yet: {COMMAND} account add")
        return
    table(
        ("account", "server", "last sync", "watched", "state", "id"),
        (
            (
                found.account_name,
                f"{found.username} at {found.hostname}:{found.port} ({found.encryption})",
                ago(found.last_sync_at, found.read_at),
                "yes" if found.watched_since else "off" if found.watch == "off" else "no",
                state(found),
                found.id,
            )
            for found in accounts
        ),
        whole=("id",),
    )
    for found in accounts:
        for what_to_do in remedies(found):
            say(f"{found.account_name}: {what_to_do}")
        if doubles := advice(found):
            say(f"{found.account_name}: {doubles}")
    if any(found.is_overdue for found in accounts):
        say(f"Overdue accounts: check that beat queues syncs, and that workers take them. {LOOK_AT_HEALTH}")


@example("account test you@example.org")
@account.command()
@account_argument
@tenant_option
def test(account_name: str, tenant: str) -> None:
    """Log in to an account's servers and print what they offer. A login that succeeds ends the pause of receiving, or
    of sending."""
    connect()
    from tasks.errors import EmailError
    from tasks.storage.accounts.rows import find_account

    found = find_account(tenant, account_name)
    all_work = True
    for try_it in (_try_mailbox, _try_sending) if found.smtp_hostname else (_try_mailbox,):
        try:
            try_it(found)
        except EmailError as error:
            complain(explained(error, account_name))
            all_work = False
    if not all_work:
        sys.exit(1)


@example("account password you@example.org")
@account.command()
@account_argument
@click.option("--smtp", is_flag=True, help="Store the password of the SMTP server alone.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@tenant_option
def password(account_name: str, smtp: bool, password_stdin: bool, tenant: str) -> None:
    """Store a new password (of an OAuth2 account: a new refresh token) for an account, and end its pauses."""
    connect()
    from tasks.storage.accounts.rows import (
        change_password,
        change_refresh_token,
        change_smtp_password,
        find_account,
        uses_oauth2,
    )

    found = find_account(tenant, account_name)
    if smtp:
        change_smtp_password(found, read_secret(password_stdin))
    elif uses_oauth2(found):
        token = read_secret(password_stdin, "refresh token")
        change_refresh_token(found, token, read_client_secret(password_stdin))
    else:
        change_password(found, read_secret(password_stdin))
    say(f"Stored. Try it: {COMMAND} account test {account_name!r}, then {COMMAND} sync {account_name!r}")


@example("account remove you@example.org")
@account.command()
@account_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
def remove(account_name: str, yes: bool, tenant: str) -> None:
    """Remove an account with its synced mail and its unsent messages. Nothing changes on its server."""
    connect()
    from tasks.storage.accounts.rows import find_account, remove_account
    from tasks.storage.waiting import count_unsent

    found = find_account(tenant, account_name)
    unsent = count_unsent(found)
    if not yes:
        waiting = f", with {unsent:,} messages that are not sent yet" if unsent else ""
        confirm(f"Remove {found.account_name} and all its mail from this database{waiting}?")
    remove_account(found)
    say(f"{found.account_name} is removed" + (f", with {unsent:,} messages that were not sent yet" if unsent else ""))


def _try_mailbox(found: "Account") -> None:
    from tasks.engine.probe import probe

    seen = probe(found)
    messages = "" if seen.messages is None else f", {seen.messages} messages"
    tell(f"{found.account_name}: logged in at {found.hostname}:{found.port}; {seen.folders} folders{messages}")
    tell(f"The server offers: {' '.join(seen.capabilities)}")


def _try_sending(found: "Account") -> None:
    from tasks.engine.probe import probe_smtp

    probe_smtp(found)
    tell(f"{found.account_name}: logged in at {found.smtp_hostname}:{found.smtp_port} to send")
