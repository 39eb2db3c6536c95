"""`account all-mail`: whether views (folders that show messages of other folders a second time) are synced."""

import shlex
from typing import TYPE_CHECKING

import click

from manage.examples import example
from manage.output import confirm, say
from manage.place import COMMAND
from manage.session import account_argument, connect, tenant_option

if TYPE_CHECKING:
    from tasks.storage.accounts.rows import Account


@example("account all-mail you@gmail.com skip")
@click.command(name="all-mail")
@account_argument
@click.argument("choice", type=click.Choice(["skip", "sync"]))
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
def all_mail(account_name: str, choice: str, yes: bool, tenant: str) -> None:
    """Leave out the folders that show messages of other folders a second time, and drop their doubles; or sync these
    folders."""
    connect()
    from tasks.engine.sync.views import skip_views
    from tasks.storage.accounts.choices import choose_all_mail
    from tasks.storage.accounts.rows import find_account

    found = find_account(tenant, account_name)
    if choice == "sync":
        choose_all_mail(found, "sync")
        say(f"The next sync brings these folders: {COMMAND} sync {shlex.quote(found.account_name)}")
        return
    doubles = doubled(found)
    if doubles and not yes:
        names = ", ".join(f"{name} ({count})" for name, count in doubles.items())
        confirm(f"Drop the messages of {names} from this database? They stay on the server")
    say(f"These folders are left out from now on; {skip_views(found)} messages are dropped here, none on the server")


def doubled(found: "Account") -> dict[str, int]:
    """By folder, the number of messages that are stored a second time although their folder is to be left out."""
    from tasks.storage.messages.folders import doubled_folders
    from tasks.storage.session import tenant_transaction

    if found.all_mail == "sync":
        return {}
    with tenant_transaction(found.tenant_id) as connection:
        return {folder.name: folder.total_count for folder in doubled_folders(connection, found)}


def advice(found: "Account") -> str | None:
    """How to drop messages that are stored a second time; None if there are none."""
    doubles = doubled(found)
    if not doubles:
        return None
    names = ", ".join(f"{name} ({count})" for name, count in doubles.items())
    return f"{names} held a second time; {COMMAND} account all-mail {shlex.quote(found.account_name)} skip drops them"
