"""`webhook`: the endpoints that are told of events by HTTP requests."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from manage.event import TYPES
from manage.examples import example
from manage.output import Cell, Coloured, confirm, print_json, say, table
from manage.place import COMMAND
from manage.session import connect, json_option, tenant_option
from native.errors import StackError

if TYPE_CHECKING:
    from tasks.storage.webhooks.endpoints import Endpoint

_ID = "019ac8b1-5a7e-7cc3-8b1d-4c7f9d1e2a60"


@click.group()
def webhook() -> None:
    """Endpoints of the application, which are told of events by signed HTTP requests.

    docs/application.md says how a receiver checks them and what it answers.
    """


@example("webhook add https://app.example.org/webhooks --type message.created")
@webhook.command()
@click.argument("url")
@click.option(
    "--type", "types", type=TYPES, multiple=True, help="Only events of this type; may be given several times."
)
@click.option("--account", "accounts", multiple=True, help="Only of the account of this name; several times too.")
@json_option
@tenant_option
def add(url: str, types: Sequence[str], accounts: Sequence[str], as_json: bool, tenant: str) -> None:
    """Add an endpoint, which gets all events of the tenant from now on, or those that are chosen.

    Prints its id, and its secret, which is not shown again.
    """
    connect()
    from tasks.engine.webhooks.receiver import check_url
    from tasks.storage.accounts.rows import find_account
    from tasks.storage.webhooks.endpoints import add_webhook

    check_url(url)
    account_ids = [find_account(tenant, name).id for name in accounts]
    webhook_id, secret = add_webhook(tenant, url, types, account_ids)
    _show_secret(webhook_id, secret, as_json=as_json)
    say(f"Give the secret to the receiver, then try it: {COMMAND} webhook test {webhook_id}")


@example("webhook list --json")
@webhook.command(name="list")
@json_option
@tenant_option
def list_(as_json: bool, tenant: str) -> None:
    """List the endpoints of a tenant, and how each does."""
    connect()
    from tasks.storage.webhooks.endpoints import list_webhooks

    found = list_webhooks(tenant)
    if as_json:
        print_json([one._asdict() for one in found])
    elif not found:
        say(f"There are no webhooks: {COMMAND} webhook add URL")
    else:
        columns = ("id", "url", "gets", "standing")
        table(columns, ((one.id, one.url, _gets(one), _standing(one)) for one in found), whole=("id",))


@example(f"webhook show {_ID}")
@webhook.command()
@click.argument("webhook_id", metavar="ID")
@json_option
@tenant_option
def show(webhook_id: str, as_json: bool, tenant: str) -> None:
    """Show an endpoint: what it gets, how it does, and what it has not accepted."""
    connect()
    from tasks.storage.webhooks.endpoints import find_webhook

    found = find_webhook(tenant, webhook_id)
    if as_json:
        print_json(found._asdict())
        return
    shown = {name.replace("_", " "): value for name, value in found._asdict().items() if value not in (None, [], 0)}
    rows: list[tuple[str, Cell]] = [(name, _value(value)) for name, value in shown.items()]
    table(("field", "value"), [*rows, ("standing", _standing(found))])


@example(f"webhook test {_ID}")
@webhook.command()
@click.argument("webhook_id", metavar="ID")
@tenant_option
def test(webhook_id: str, tenant: str) -> None:
    """Post a test (type webhook.test) to an endpoint, from this machine.

    If it is accepted, an endpoint that was disabled, or that waits after failures, gets events again at once, from
    where it stopped.
    """
    connect()
    from tasks.engine.webhooks.probe import probe

    if failure := probe(tenant, webhook_id):
        raise StackError(f"the endpoint did not accept the test: {failure.words}")
    say("Accepted; the endpoint gets events")


@example(f"webhook rotate {_ID} --overlap-hours 48")
@webhook.command()
@click.argument("webhook_id", metavar="ID")
@click.option(
    "--overlap-hours",
    type=click.IntRange(0, 24 * 30),
    default=24,
    show_default=True,
    help="For so long requests are signed with the secret before, too.",
)
@json_option
@tenant_option
def rotate(webhook_id: str, overlap_hours: int, as_json: bool, tenant: str) -> None:
    """Give an endpoint another secret, which is printed and not shown again."""
    connect()
    from tasks.storage.webhooks.endpoints import rotate_secret

    _show_secret(webhook_id, rotate_secret(tenant, webhook_id, overlap_hours), as_json=as_json)
    say(f"Requests are signed with the secret before, too, for {overlap_hours} hours")


@example(f"webhook remove {_ID}")
@webhook.command()
@click.argument("webhook_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
def remove(webhook_id: str, yes: bool, tenant: str) -> None:
    """Remove an endpoint. What it has not accepted, it does not get."""
    connect()
    from tasks.storage.webhooks.endpoints import find_webhook, remove_webhook

    found = find_webhook(tenant, webhook_id)
    if not yes:
        confirm(f"Remove the webhook to {found.url}?")
    remove_webhook(tenant, webhook_id)
    say(f"The webhook to {found.url} is removed")


def _show_secret(webhook_id: str, secret: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": webhook_id, "secret": secret})
    else:
        table(("field", "value"), (("id", webhook_id), ("secret", secret)), whole=("value",))


def _gets(one: "Endpoint") -> str:
    types = ", ".join(one.types) or "all events"
    return f"{types} of {len(one.account_ids)} accounts" if one.account_ids else types


def _standing(one: "Endpoint") -> Cell:
    if not one.is_enabled:
        since = f"{one.disabled_at:%Y-%m-%d %H:%M}" if one.disabled_at else ""
        why = {"gone": "it answered 410", "failing": "it accepted nothing for days"}.get(one.disabled_reason or "")
        return Coloured(f"disabled since {since}: {why}. Once mended: {COMMAND} webhook test {one.id}", "red")
    if one.failing_since:
        return Coloured(f"failing since {one.failing_since:%Y-%m-%d %H:%M}: {one.last_error}", "red")
    behind = f"{one.accounts_behind} accounts wait for events that it refuses" if one.accounts_behind else ""
    return behind or Coloured("works", "green")


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
