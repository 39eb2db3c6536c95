"""`account`: the mailboxes that are synced."""

import sys
from typing import TYPE_CHECKING

import click

from manage.output import NEEDS_PASSWORD, ago, good_or_bad, password_advice, print_json, say, table
from manage.place import COMMAND
from manage.session import USER, connect, tenant_option

if TYPE_CHECKING:
    from tasks.storage.accounts import Account

_PORTS = {
    "imap": {"tls": 993, "starttls": 143, "none": 143},
    "pop3": {"tls": 995, "starttls": 110, "none": 110},
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@click.group()
def account() -> None:
    """Add, list, test and remove mail accounts, and change their passwords."""


@account.command()
@click.option("--email", required=True, help="The mail address.")
@click.option("--hostname", required=True, help="The IMAP or POP3 server.")
@click.option("--protocol", type=click.Choice(list(_PORTS)), default="imap", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), help="Its port.  [default: the protocol's own]")
@click.option("--encryption", type=click.Choice(list(_PORTS["imap"])), default="tls", show_default=True)
@click.option(
    "--keep-days",
    type=click.IntRange(0),
    help="POP3: delete messages from the server so many days after they were stored.  [default: never]",
)
@click.option("--username", help="The name to log in with.  [default: the mail address]")
@click.option("--name", help="What to call the account here.  [default: the mail address]")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@click.option("--user", default=USER, show_default=True, help="Who owns the account.")
@tenant_option
def add(
    email: str,
    hostname: str,
    protocol: str,
    port: int | None,
    encryption: str,
    keep_days: int | None,
    username: str | None,
    name: str | None,
    password_stdin: bool,
    user: str,
    tenant: str,
) -> None:
    """Register an account, and print its id."""
    if keep_days is not None and protocol != "pop3":
        raise click.UsageError("--keep-days is for --protocol pop3: IMAP never deletes by itself")
    secret = _read_password(password_stdin)
    connect()
    from tasks.storage.accounts import NewAccount, add_account

    if encryption == "none" and hostname not in _LOOPBACK:
        say(f"Warning: with --encryption none the password goes over the network to {hostname} readable by anyone")
    new = NewAccount(
        account_name=name or email,
        email_address=email,
        hostname=hostname,
        port=port or _PORTS[protocol][encryption],
        encryption=encryption,
        username=username or email,
        password=secret,
        protocol=protocol,
        pop3_keep_days=keep_days,
    )
    click.echo(add_account(tenant, user, new))
    say(f"Added. Try it: {COMMAND} account test {new.account_name!r}, then {COMMAND} sync {new.account_name!r}")


@account.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def list_(as_json: bool, tenant: str) -> None:
    """List the accounts, when each was synced, and what is wrong with it."""
    connect()
    from tasks.storage.accounts import list_accounts

    accounts = list_accounts(tenant)
    if as_json:
        print_json([{k: v for k, v in found._asdict().items() if k != "credential_id"} for found in accounts])
        return
    if not accounts:
        say(f"There are no accounts yet: {COMMAND} account add")
        return
    table(
        ("account", "server", "last sync", "state", "id"),
        (
            (
                found.account_name,
                f"{found.username} at {found.hostname}:{found.port} ({found.encryption})",
                ago(found.last_sync_at),
                _state(found),
                found.id,
            )
            for found in accounts
        ),
    )
    for found in accounts:
        if found.last_error_code in NEEDS_PASSWORD:
            say(f"{found.account_name}: {password_advice(found.account_name)}")


@account.command()
@click.argument("account_name", metavar="ACCOUNT")
@tenant_option
def test(account_name: str, tenant: str) -> None:
    """Log in to an account's server and look at what it offers. Success ends a pause."""
    connect()
    from tasks.engine.probe import probe
    from tasks.storage.accounts import find_account

    found = find_account(tenant, account_name)
    seen = probe(found)
    messages = "" if seen.messages is None else f", {seen.messages} messages"
    click.echo(f"{found.account_name}: logged in at {found.hostname}:{found.port}; {seen.folders} folders{messages}")
    click.echo(f"The server offers: {' '.join(seen.capabilities)}")


@account.command()
@click.argument("account_name", metavar="ACCOUNT")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@tenant_option
def password(account_name: str, password_stdin: bool, tenant: str) -> None:
    """Store a new password for an account, and end its pause."""
    connect()
    from tasks.storage.accounts import change_password, find_account

    found = find_account(tenant, account_name)
    change_password(found, _read_password(password_stdin))
    say(f"Stored. Try it: {COMMAND} account test {account_name!r}, then {COMMAND} sync {account_name!r}")


@account.command()
@click.argument("account_name", metavar="ACCOUNT")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
def remove(account_name: str, yes: bool, tenant: str) -> None:
    """Remove an account with its synced mail. Nothing changes on its server."""
    connect()
    from tasks.storage.accounts import find_account, remove_account

    found = find_account(tenant, account_name)
    if not yes:
        click.confirm(f"Remove {found.account_name} and all its mail from this database?", abort=True, err=True)
    remove_account(found)
    say(f"{found.account_name} is removed")


def _read_password(from_stdin: bool) -> str:
    if from_stdin:
        secret = sys.stdin.readline().rstrip("\r\n")
        if not secret:
            raise click.UsageError("--password-stdin was given, but standard input is empty")
        return secret
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask for the password: use --password-stdin")
    return str(click.prompt("Password", hide_input=True, err=True))


def _state(found: "Account") -> str:
    if found.last_error is not None:
        return good_or_bad(False, f"{'paused: ' if found.paused_at else ''}{found.last_error}")
    if not (found.is_enabled and found.is_sync_enabled):
        return "off"
    return good_or_bad(True, "ok") if found.last_sync_at else "not synced yet"
