"""`outbox`: messages on their way out, and messages that wait for a person's decision."""

import heapq
import sys
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from manage.advice import advice_for_code, explained, said_here
from manage.examples import example
from manage.output import complain, confirm, duration, good_or_bad, print_json, say, size, table
from manage.place import COMMAND
from manage.session import connect, tenant_option
from tasks.storage.states import OutboxState, RecipientState

if TYPE_CHECKING:
    from tasks.storage.accounts.rows import Account
    from tasks.storage.outbox import Outgoing

_OPEN = tuple(state.value for state in OutboxState if state != OutboxState.SENT)
_STATES = click.Choice([state.value for state in OutboxState])
_AGAIN = (OutboxState.QUEUED.value, OutboxState.ACCEPTED.value, OutboxState.FAILED.value)
_MOST = 500
_COLUMNS = ("state", "recipients", "attempts", "age", "next try", "last error")
_all_tenants_option = click.option("--all-tenants", is_flag=True, help="The messages of all tenants.")


@click.group()
def outbox() -> None:
    """List messages that are not sent, try them again, and decide about messages of which nobody knows whether they
    were sent."""


@example("outbox list --all-tenants")
@outbox.command(name="list")
@click.option(
    "--state",
    type=_STATES,
    help="Only in this state.  [default: all but sent]",
)
@_all_tenants_option
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def list_(state: str | None, all_tenants: bool, as_json: bool, tenant: str) -> None:
    """List the messages that are not sent, the newest first, up to 500."""
    connect()
    from tasks.settings import get_settings
    from tasks.storage.outbox import list_outgoing

    late = get_settings().send.delay_warning
    of_each = (
        one
        for each in _tenants(tenant, all_tenants=all_tenants)
        for one in list_outgoing(each, [state] if state else _OPEN, _MOST, late)
    )
    found = heapq.nlargest(_MOST, of_each, key=lambda one: one.created_at)
    if as_json:
        print_json([{**one._asdict(), "recipients": [r._asdict() for r in one.recipients]} for one in found])
        return
    if not found:
        say("There are no such messages")
        return
    table(
        ("id", *(["tenant"] if all_tenants else ()), "account", *_COLUMNS),
        (
            (
                one.id,
                *([one.tenant] if all_tenants else ()),
                one.account,
                good_or_bad(one.state not in (OutboxState.FAILED, OutboxState.UNKNOWN), one.state),
                f"{one.recipients[0].address}{f' and {len(one.recipients) - 1} more' if one.recipients[1:] else ''}",
                str(one.attempts),
                good_or_bad(not one.is_late, duration(one.waiting_seconds)),
                _next_try(one.state, one.seconds_left),
                said_here(one.last_error or ""),
            )
            for one in found
        ),
        right=("attempts",),
    )
    if count := sum(one.is_late for one in found):
        say(f"{count} messages have waited for more than {late / 3600:g} h")


@example("outbox show 019ac8b1-5a7e-7cc3-8b1d-4c7f9d1e2a60")
@outbox.command()
@click.argument("outbox_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def show(outbox_id: str, as_json: bool, tenant: str) -> None:
    """Show one message: its state, and what the server said about each recipient."""
    connect()
    outgoing, account = _find(tenant, outbox_id)
    if as_json:
        print_json({**outgoing._asdict(), "recipients": [r._asdict() for r in outgoing.recipients]})
        return
    shown: dict[str, Any] = {
        "account": account.account_name,
        "state": outgoing.state,
        "Message-ID": f"<{outgoing.message_id}>",
        "made": f"{outgoing.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "size": size(outgoing.size),
        "attempts": outgoing.attempts,
        "next try": _next_try(outgoing.state, outgoing.seconds_left),
        "last error": said_here(outgoing.last_error or ""),
        **{r.address: f"{r.state} {r.reply}".strip() for r in outgoing.recipients},
    }
    table(("field", "value"), ((name, str(value)) for name, value in shown.items()))
    if outgoing.state == OutboxState.UNKNOWN:
        say("Ask a recipient, or look for the Message-ID in the server's log or the Sent folder. Then run one of:")
        say(f"  {COMMAND} outbox sent {outbox_id}      the message was sent")
        say(f"  {COMMAND} outbox resend {outbox_id}    the message was not sent: send it now")
    elif what_to_do := advice_for_code(outgoing.last_error_code, account.account_name, outbox_id):
        say(what_to_do)


@example("outbox retry --all --tenant default --dry-run")
@outbox.command()
@click.argument("outbox_id", metavar="[ID]", required=False)
@click.option("--all", "is_all", is_flag=True, help="All waiting and failed messages that the other options choose.")
@click.option("--account", help="Only of the account of this name.")
@click.option("--state", type=click.Choice(_AGAIN), help="Only in this state.  [default: all three]")
@_all_tenants_option
@click.option("--dry-run", is_flag=True, help="Change nothing, only count the messages.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def retry(
    outbox_id: str | None,
    is_all: bool,
    account: str | None,
    state: str | None,
    all_tenants: bool,
    dry_run: bool,
    as_json: bool,
    tenant: str,
) -> None:
    """Try a message again now, or with --all many messages within the next minute.

    A message in the state unknown is only looked for in the Sent folder, and not by --all.
    """
    if (outbox_id is None) != is_all:
        raise click.UsageError("name a message by its id, or choose with --all and the other options")
    if all_tenants and not is_all:
        raise click.UsageError("--all-tenants goes with --all")
    if all_tenants and account:
        raise click.UsageError("--account names an account of one tenant, and does not go with --all-tenants")
    connect()
    if outbox_id is not None:
        _, found = _find(tenant, outbox_id)
        _resume(found, outbox_id)
        return
    from tasks.storage.accounts.rows import find_account
    from tasks.storage.waiting import ask_again

    account_id = find_account(tenant, account).id if account else None
    states = [state] if state else _AGAIN
    ids = [
        one
        for each in _tenants(tenant, all_tenants=all_tenants)
        for one in ask_again(each, states, account_id, only_looks=dry_run)
    ]
    if as_json:
        print_json({"would_retry" if dry_run else "retried": ids})
    else:
        say(f"{len(ids)} messages {'would be' if dry_run else 'are'} tried again")


def _decision(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and the options that choose what a person decides about."""
    for option in (
        tenant_option,
        _all_tenants_option,
        click.option("--account", help="With --all: only of the account of this name."),
        click.option("--all", "is_all", is_flag=True, help="All messages that wait for a person."),
        click.argument("outbox_id", metavar="[ID]", required=False),
    ):
        command = option(command)
    return command


@example("outbox sent 019ac8b1-5a7e-7cc3-8b1d-4c7f9d1e2a60", "outbox sent --all --account mail --tenant default")
@outbox.command()
@_decision
def sent(outbox_id: str | None, is_all: bool, account: str | None, all_tenants: bool, tenant: str) -> None:
    """Decide that a message in the state unknown was sent, or with --all many messages; nothing is sent again."""
    chosen = _undecided(outbox_id, tenant, account, is_all=is_all, all_tenants=all_tenants)
    _decide_each(chosen, was_sent=True)


@example("outbox resend 019ac8b1-5a7e-7cc3-8b1d-4c7f9d1e2a60", "outbox resend --all --account mail --tenant default")
@outbox.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@_decision
def resend(
    yes: bool, outbox_id: str | None, is_all: bool, account: str | None, all_tenants: bool, tenant: str
) -> None:
    """Decide that a message in the state unknown was not sent, and send it now; with --all many messages."""
    chosen = _undecided(outbox_id, tenant, account, is_all=is_all, all_tenants=all_tenants)
    if chosen and not yes:
        confirm(
            "If the message was sent after all, its recipients get it twice. Send the message?"
            if len(chosen) == 1
            else f"Those that were sent after all, their recipients get twice. Send {len(chosen)} messages?"
        )
    _decide_each(chosen, was_sent=False)


def _undecided(
    outbox_id: str | None, tenant: str, account: str | None, *, is_all: bool, all_tenants: bool
) -> list[tuple[str, str]]:
    """The tenant and the id of each message that a person decides about."""
    if (outbox_id is None) != is_all:
        raise click.UsageError("name a message by its id, or choose with --all and the other options")
    if (all_tenants or account) and not is_all:
        raise click.UsageError("--all-tenants and --account go with --all")
    if all_tenants and account:
        raise click.UsageError("--account names an account of one tenant, and does not go with --all-tenants")
    connect()
    from tasks.storage.accounts.rows import find_account
    from tasks.storage.waiting import undecided

    if outbox_id is not None:
        return [(tenant, outbox_id)]
    account_id = find_account(tenant, account).id if account else None
    return [(each, one) for each in _tenants(tenant, all_tenants=all_tenants) for one in undecided(each, account_id)]


def _decide_each(chosen: list[tuple[str, str]], *, was_sent: bool) -> None:
    """Store the decision about each message, and act on it. One that fails keeps no other from its turn."""
    from tasks.engine.send.outbox import decide
    from tasks.errors import EmailError

    failed = 0
    for tenant, outbox_id in chosen:
        try:
            _, account = _find(tenant, outbox_id)
            decide(account, outbox_id, was_sent=was_sent)
            _resume(account, outbox_id)
        except EmailError as error:
            if len(chosen) == 1:
                raise
            complain(f"message {outbox_id}: {explained(error)}")
            failed += 1
    if len(chosen) != 1:
        say(f"{len(chosen) - failed} of {len(chosen)} messages are dealt with")
    if failed:
        sys.exit(1)


def _tenants(tenant: str, *, all_tenants: bool) -> list[str]:
    from tasks.storage.accounts.rows import list_tenants

    return list_tenants() if all_tenants else [tenant]


def _next_try(state: str, seconds_left: float | None) -> str:
    from tasks.storage.outbox import WAITING_STATES

    if seconds_left is None or state not in WAITING_STATES:
        return ""
    return duration(seconds_left) if seconds_left > 0 else "now"


def _resume(account: "Account", outbox_id: str) -> None:
    from tasks.engine.send.outbox import resume

    outgoing = resume(account, outbox_id, f"a person:{uuid.uuid4()}")
    copy = f"; its copy is tried again in {duration(outgoing.seconds_left or 0)}" if outgoing.waits else ""
    accepted = len(outgoing.addresses(RecipientState.ACCEPTED))
    say(f"{outgoing.state}: {accepted} of {len(outgoing.recipients)} recipients{copy}")


def _find(tenant: str, outbox_id: str) -> "tuple[Outgoing, Account]":
    from tasks.storage.accounts.rows import find_account
    from tasks.storage.outbox import lock_outgoing
    from tasks.storage.session import tenant_transaction

    with tenant_transaction(tenant) as connection:
        outgoing = lock_outgoing(connection, tenant, outbox_id)
    return outgoing, find_account(tenant, outgoing.email_client_id)
