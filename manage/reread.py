"""`reread`: has messages read again that an older parser read."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from manage.examples import example
from manage.output import complain, print_json, progress, say, table, track
from manage.place import COMMAND
from manage.session import connect, tenant_option
from manage.trouble import redis_words

if TYPE_CHECKING:
    from tasks.storage.accounts.rows import Account

_POLL_SECONDS = 1


@example("reread --tenant default --dry-run", "reread --tenant default --follow")
@click.command()
@click.option(
    "--account", "account_name", help="Only messages of this account.  [default: all accounts of the tenant]"
)
@click.option(
    "--older-than",
    "older_than",
    type=click.IntRange(1, 32767),
    metavar="VERSION",
    help="Only messages that a parser before this version read.  [default: the present parser's version]",
)
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Only messages that meet this: 'subject ~ Ã', 'sent = none', 'header.Content-Type ~ iso-2022-jp', "
    "'received >= 2024-01-01'. May be given again: then a message must meet all.",
)
@click.option("--all-tenants", is_flag=True, help="The accounts of all tenants.")
@click.option("--dry-run", is_flag=True, help="Change nothing, only count the messages.")
@click.option("--status", "only_status", is_flag=True, help="Only show how many messages wait.")
@click.option("--follow", is_flag=True, help="Watch until all messages have been read.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def reread(
    account_name: str | None,
    older_than: int | None,
    conditions: tuple[str, ...],
    all_tenants: bool,
    dry_run: bool,
    only_status: bool,
    follow: bool,
    as_json: bool,
    tenant: str,
) -> None:
    """Ask for messages that an older parser read to be fetched and read again, in place and in the background."""
    if (dry_run or only_status) and follow:
        raise click.UsageError("--follow goes with neither --dry-run nor --status")
    if only_status and (dry_run or older_than or conditions):
        raise click.UsageError("--status goes with neither --dry-run, --older-than nor --where")
    if all_tenants and account_name:
        raise click.UsageError("--account names an account of one tenant, and does not go with --all-tenants")
    meets = _read(conditions)
    connect(broker=not (dry_run or only_status))
    from tasks.mail.message import PARSER_VERSION
    from tasks.storage.accounts.rows import find_account, list_accounts, list_tenants

    tenants = list_tenants() if all_tenants else [tenant]
    accounts = (
        [find_account(tenant, account_name)] if account_name else [a for t in tenants for a in list_accounts(t)]
    )
    if only_status:
        _show(accounts, as_json)
        return
    asked = _ask(accounts, older_than or PARSER_VERSION, meets, dry_run=dry_run, quiet=as_json)
    if dry_run:
        _report(asked, as_json, "would be read again", "would be fetched again by the next sync")
        return
    if any(found["messages"] for found in asked):
        _begin(waits=follow)
    able = [account for account in accounts if _is_read(account)]
    if follow:
        _watch(able, quiet=as_json)
    _report(asked, as_json, "asked for", "are fetched again by the next sync")
    if not follow and not as_json and any(found["messages"] for found in asked):
        say(f"The messages are read in the background. To see how many wait: {COMMAND} reread --status")


def _is_read(account: "Account") -> bool:
    """Whether messages of the account can be read again now. Prints it if a person has to act first."""
    if account.is_enabled and account.is_sync_enabled and account.paused_at is None:
        return True
    why = "receiving is paused" if account.is_enabled and account.is_sync_enabled else "the account is switched off"
    name = account.account_name
    say(f"No message of account {name} is read again while {why}: {COMMAND} account show {name!r}")
    return False


def _read(conditions: Sequence[str]) -> list[Any]:
    from tasks.storage.messages.conditions import ConditionInvalidError, read_condition

    try:
        return [read_condition(condition) for condition in conditions]
    except ConditionInvalidError as error:
        raise click.BadParameter(str(error), param_hint="--where") from None


def _ask(
    accounts: "list[Account]", older_than: int, conditions: list[Any], *, dry_run: bool, quiet: bool
) -> list[dict[str, Any]]:
    from tasks.storage.messages.rereading import ask

    return [
        {**_name(account), **ask(account, older_than, conditions, dry_run=dry_run)._asdict()}
        for account in track(accounts, "accounts", quiet=quiet)
    ]


def _name(account: "Account") -> dict[str, str]:
    return {"tenant": account.tenant_id, "account": account.account_name}


def _begin(*, waits: bool) -> None:
    """Queue the rereading now instead of waiting for beat. If the broker takes no tasks now, beat queues it within
    five minutes once the broker does.

    With `waits`, raises an error of the broker, because the caller would wait in vain.
    """
    from kombu.exceptions import OperationalError

    from tasks.celery_app import queue_rereading

    try:
        queue_rereading.apply_async(retry=False)
    except OperationalError as error:
        if waits:
            complain(f"{redis_words(error)}. The messages are read again once Redis takes tasks")
            sys.exit(1)
        say(f"The messages are read again once Redis takes tasks, which it does not now: {redis_words(error)}")


def _report(asked: list[dict[str, Any]], as_json: bool, done: str, fetched: str) -> None:
    if as_json:
        print_json(asked)
        return
    rows = [(one["tenant"], one["account"], f"{one['messages']:,}") for one in asked if one["messages"]]
    if rows:
        table(("tenant", "account", "messages"), rows, right=("messages",))
    say(f"{sum(found['messages'] for found in asked):,} messages {done}")
    if set_aside := sum(found["set_aside"] for found in asked):
        say(f"{set_aside:,} that could not be read and were set aside {fetched}")


def _show(accounts: "list[Account]", as_json: bool) -> None:
    from tasks.storage.messages.rereading import counts

    found = [{**_name(account), **counts(account)._asdict()} for account in accounts]
    if as_json:
        print_json(found)
        return
    columns = {
        "tenant": "tenant",
        "account": "account",
        "read by an older parser": "old",
        "waiting": "waiting",
        "gone from the server": "gone",
        "another message now": "other",
        "unreadable": "unreadable",
    }
    rows = [[str(one[name]) for name in columns.values()] for one in found]
    table(tuple(columns), rows, right=tuple(columns)[2:])


def _watch(accounts: "list[Account]", *, quiet: bool) -> None:
    from tasks.storage.messages.rereading import number_waiting

    def waiting() -> int:
        return sum(map(number_waiting, accounts))

    total = waiting()
    with progress(quiet=quiet) as bars:
        bar = bars.add_task("read again", total=total)
        while left := waiting():
            bars.update(bar, completed=total - left)
            time.sleep(_POLL_SECONDS)
        bars.update(bar, completed=total)
