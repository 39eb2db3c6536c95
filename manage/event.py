"""`event`: what the application was told of."""

import json
import select
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from manage.examples import example
from manage.output import print_json, say, table, tell
from manage.session import connect, json_option, tenant_option
from tasks.storage.states import EventType

if TYPE_CHECKING:
    from tasks.storage.events import Event

_STEP = 1000
TYPES = click.Choice([kind.value for kind in EventType])
# How long a follower waits for a notification at most, and how soon it looks again for events that are held back: the
# transaction for which they wait may end without a notification.
_SILENCE_SECONDS = 30.0
_HELD_BACK_SECONDS = 0.5


@click.group()
def event() -> None:
    """Show events, which tell the application of what changes: messages that come, go or are sent, folders, accounts.

    docs/application.md says what each tells, and how an application reads them.
    """


@example("event list --type message.created --follow")
@event.command(name="list")
@click.option("--follow", is_flag=True, help="Show only new events, as they come, until Ctrl-C.")
@click.option("--account", help="Only of the account of this name.")
@click.option("--type", "types", type=TYPES, multiple=True, help="Only of this type; may be given several times.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@json_option
@tenant_option
def list_(follow: bool, account: str | None, types: Sequence[str], limit: int, as_json: bool, tenant: str) -> None:
    """List the newest events, the oldest of them first."""
    connect()
    from tasks.storage.accounts.rows import find_account, list_accounts
    from tasks.storage.events import newest_events, number_held_back

    names = {one.id: one.account_name for one in list_accounts(tenant)}
    account_id = find_account(tenant, account).id if account else None
    if follow:
        for one in _coming(tenant):
            if one.type in (types or [one.type]) and one.email_client_id == (account_id or one.email_client_id):
                _tell(one, names, as_json=as_json)
    found = newest_events(tenant, types, account_id, limit)
    if as_json:
        print_json([one._asdict() for one in found])
        return
    if not found:
        say("There are no such events")
    else:
        table(("time", "type", "account", "what", "id"), (_cells(one, names) for one in found), whole=("id",))
    if number := number_held_back(tenant):
        say(f"{number} of the tenant's events wait to be read until a transaction that began before them has ended")


@example("event show 019ac8b1-5a7e-7cc3-8b1d-4c7f9d1e2a60")
@event.command()
@click.argument("event_id", metavar="ID")
@json_option
@tenant_option
def show(event_id: str, as_json: bool, tenant: str) -> None:
    """Show one event."""
    connect()
    from tasks.storage.events import find_event

    found = find_event(tenant, event_id)
    if as_json:
        print_json(found._asdict())
        return
    fields = {"type": found.type, "account": found.email_client_id, "time": _time(found), "position": found.position}
    shown = {**fields, **{name: _value(value) for name, value in found.data.items()}}
    table(("field", "value"), shown.items())


@example("event replay --since 2026-11-28T06:00")
@event.command()
@click.option(
    "--since",
    required=True,
    type=click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")),
    help="A time in UTC; events are kept for EVENT_RETENTION_DAYS.",
)
@click.option("--endpoint", help="Only to the webhook of this id.")
@json_option
@tenant_option
def replay(since: datetime, endpoint: str | None, as_json: bool, tenant: str) -> None:
    """Deliver events to webhooks again, under the ids that they had: those since a time, each account's in order."""
    connect()
    from tasks.storage.webhooks.endpoints import find_webhook
    from tasks.storage.webhooks.endpoints import replay as deliver_again

    if endpoint is not None:
        find_webhook(tenant, endpoint)
    found = deliver_again(tenant, since.replace(tzinfo=UTC), endpoint)
    if as_json:
        print_json(found)
    else:
        say(f"{len(found)} webhooks get the events since {since:%Y-%m-%d %H:%M:%S} UTC again")


def _tell(one: "Event", names: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        tell(json.dumps(one._asdict(), default=str, ensure_ascii=False))
    else:
        time, kind, account, what, _ = _cells(one, names)
        tell(f"{time}  {kind:<18} {account}  {what}")


def _coming(tenant: str) -> "Iterator[Event]":
    """The tenant's events from now on, as they come, for ever."""
    from tasks.storage.events import CHANNEL, events_after, number_held_back, position_now
    from tasks.storage.session import listening

    with listening(CHANNEL) as connection:
        # First listen, then look: so no event comes between the two.
        position = position_now(tenant)
        while True:
            # Asked before reading: what is held back now may be given a moment after reading, without a notification.
            patience = _HELD_BACK_SECONDS if number_held_back(tenant) else _SILENCE_SECONDS
            while some := events_after(tenant, position, _STEP):
                yield from some
                position = some[-1].position
            select.select([connection], [], [], patience)
            connection.poll()
            connection.notifies.clear()


def _cells(one: "Event", names: dict[str, str]) -> tuple[str, str, str, str, str]:
    what = " ".join(f"{name}={_value(value)}" for name, value in one.data.items())
    return _time(one), one.type, names.get(one.email_client_id, one.email_client_id), what, one.id


def _time(one: "Event") -> str:
    return f"{one.created_at:%Y-%m-%d %H:%M:%S}"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
