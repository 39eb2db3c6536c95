"""`restore:settle`: after a restore of the database, what Redis, the mail servers and PostgreSQL disagree on."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from manage.examples import example
from manage.output import confirm, print_json, say
from manage.place import COMMAND
from manage.session import application, connect, json_option
from native.errors import StackError

if TYPE_CHECKING:
    from tasks.restored import Restored

# A worker that has ended is known as running until its report expires, and beat notes every two seconds that it runs.
_PATIENCE_SECONDS, _SILENCE_SECONDS, _PAUSE_SECONDS = 60, 12, 1

_EARLIEST, _MAY_BE_AHEAD = datetime(2000, 1, 1, tzinfo=UTC), timedelta(hours=1)  # by the clock of another host
_NAME = re.compile(r"[0-9A-Za-z:._-]{1,64}")
# What is counted, by its name.
_MEANINGS = {
    "searched": "mails that were not sent are looked for in their Sent folders, once workers run",
    "undecided": f"mails that some recipients had wait for a person: {COMMAND} outbox list --state unknown",
    "copies": "copies of sent mail are filed where there is none yet",
    "failed": "mails had failed, and are looked for before they are sent once more",
    "queued_in_sql": f"sends queued in SQL wait for a person: {COMMAND} dlq list",
    "tasks_kept": "sends stay in their queues: they were never begun, or the outbox knows their mail",
    "tasks_aside": f"sends may have been done and wait for a person: {COMMAND} dlq list --code maybe_sent",
}


def _moment(_context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if not _EARLIEST <= moment <= datetime.now(UTC) + _MAY_BE_AHEAD:
            raise ValueError
    except (ValueError, OverflowError):
        raise click.BadParameter(
            "is no moment of the past such as '2026-11-28 14:03:07+00' (UTC where it names no time zone)",
            param=parameter,
        ) from None
    return moment


def _name(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _NAME.fullmatch(value):
        raise click.BadParameter("must have 1 to 64 letters, digits and :._-", param=parameter)
    return value


@example(
    "restore:settle --yes", "restore:settle --moment '2026-11-28 14:03:07+00' --yes", fails="workers or beat run"
)
@click.command(name="restore:settle")
@click.option(
    "--moment",
    callback=_moment,
    help="The moment that the database was restored to.  [default: what PostgreSQL says it recovered]",
)
@click.option("--name", callback=_name, help="The name of this restore.  [default: PostgreSQL's timeline]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def settle(moment: datetime | None, name: str | None, yes: bool, as_json: bool) -> None:
    """Deal with what was done after the moment that the database was restored to, so that no mail is sent twice.

    playbooks/restore.yml calls it; call it yourself after a restore by other means, while no worker and no beat runs.
    Mail that was not sent at that moment is looked for in the Sent folder by its Message-ID, and waits for a person
    where it is not found. Tasks that may have sent a mail of which the database knows nothing become dead letters. A
    second call for the same restore does what an interrupted one left, and else nothing.
    """
    if not yes:
        confirm("Mail that is not sent yet will not be sent before it is looked for. Was the database restored?")
    connect(broker=True)
    from tasks.restored import Restored
    from tasks.restored import settle as deal_with
    from tasks.storage.restores import find, timeline

    recovered, recovered_to = timeline()
    known = find(name or recovered)
    if known and known.is_finished:
        _tell(Restored(known, 0, 0), as_json=as_json)
        return
    app = application()
    moment = moment or (known.restored_to if known else recovered_to)
    if moment is None:
        raise StackError(
            "PostgreSQL does not say which moment it was restored to. Name it: --moment '2026-11-28 14:03:07+00'"
        )
    _require_that_nothing_runs(app)
    _tell(deal_with(app, name or recovered, moment), as_json=as_json)


def _require_that_nothing_runs(app: Any) -> None:
    """Raises StackError where workers or beat run for longer than the last words of one that has ended are kept."""
    from tasks.runtime.broker.transport import broker_client

    deadline = time.monotonic() + _PATIENCE_SECONDS
    with broker_client(app) as client:
        while running := _running(client):
            if time.monotonic() > deadline:
                raise StackError(f"{', '.join(running)} must not run meanwhile: stop what runs, then do this again")
            time.sleep(_PAUSE_SECONDS)


def _running(client: Any) -> list[str]:
    from tasks.monitoring.readings.beat import beat
    from tasks.monitoring.readings.workers import workers

    ticked = beat(client).ticked
    is_ticking = ticked is not None and ticked < _SILENCE_SECONDS
    return [one.node for one in workers(client) if one.is_up] + ["beat"] * is_ticking


def _tell(done: "Restored", *, as_json: bool) -> None:
    settled, counts = done.settled, {**done.settled.found, "tasks_kept": done.kept, "tasks_aside": done.aside}
    if as_json:
        print_json({"restored_to": settled.restored_to, "was_done_before": settled.is_finished, **counts})
        return
    say(f"The database was restored to {settled.restored_to.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")
    if settled.is_finished:
        say("This restore was dealt with before, and nothing is left to do")
        return
    for name, count in counts.items():
        if count:
            say(f"{count} {_MEANINGS[name]}")
    if not any(counts.values()):
        say("No mail is in doubt")
