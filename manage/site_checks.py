"""Checks of a whole site, by what Redis and PostgreSQL say, for `metabuilder health`.

A queue is well if a canary comes back from it. The environment must be in effect.
"""

from collections.abc import Callable, Iterator
from typing import Any

from manage.output import duration
from manage.place import COMMAND
from manage.session import application, broker_alone
from manage.trouble import redis_words
from native.backlog import messages_are_young, nothing_waits_for_a_person
from native.check import Check, names_revoked, not_asked, one_line

# Beat looks at its schedule every few seconds, and notes in Redis that it did.
_BEAT_SILENCE_SECONDS = 30


def check_site() -> list[Check]:
    """The checks of all that Redis and PostgreSQL know."""
    by_redis, by_postgresql = _asked("redis", _by_redis), _asked("postgresql", _by_postgresql)
    answer = by_redis[0].ok, by_postgresql[0].ok
    return [
        *by_redis,
        *(_asked("consuming", _consuming) if answer[0] else [not_asked("consuming", "Redis does not answer")]),
        *(_asked("clocks", _clocks) if all(answer) else ()),
        *by_postgresql,
    ]


def _asked(component: str, ask: Callable[[], Iterator[Check]]) -> list[Check]:
    """The checks, up to one that cannot be made because Redis or PostgreSQL fails."""
    from sqlalchemy.exc import DBAPIError

    from tasks.errors import EmailError

    found: list[Check] = []
    try:
        found.extend(ask())
    except Exception as error:
        if not isinstance(error, EmailError | DBAPIError | OSError) and redis_words(error) is None:
            raise
        found.append(_failed(component, error))
    return found


def _failed(component: str, error: Exception) -> Check:
    if words := redis_words(error):
        detail, _, advice = words.partition("). ")
        return Check(component, False, f"{detail})", advice)
    return Check(component, False, one_line(error), "See the server's log on its host")


def _by_redis() -> Iterator[Check]:
    with broker_alone() as client:
        from tasks.monitoring.readings.beat import beat
        from tasks.monitoring.readings.queues import queues
        from tasks.monitoring.readings.workers import workers
        from tasks.runtime.revocations import revocations

        waiting, found, ticked = queues(client), workers(client), beat(client).ticked
        names = [one.name for one in revocations(client) if one.name]
    yield Check("redis", True, "answers")
    yield from _workers(found)
    yield messages_are_young(waiting, COMMAND, "celery_worker_concurrency")
    yield _beat(ticked)
    yield names_revoked(names, COMMAND)


def _clocks() -> Iterator[Check]:
    with broker_alone() as client:
        from tasks.runtime.clocks import measure, skew
        from tasks.storage.session import database_now

        off = skew(measure(client, database_now))
    if off:
        yield Check("clocks", True, off.what, off.advice.capitalize(), warns=True)
    else:
        yield Check("clocks", True, "those of this host, Redis and PostgreSQL agree")


def _workers(found: Any) -> Iterator[Check]:
    if not found:
        yield Check("workers", False, "none has reported", f"Start them: {COMMAND} up worker, on their hosts")
    for worker in found:
        if not worker.is_up:
            detail = f"has not reported for {duration(worker.age)}; forgotten a day after its last report"
            advice = f"On its host: {COMMAND} ps, {COMMAND} logs worker; is the host gone: {COMMAND} worker:shutdown"
            yield Check(f"worker {worker.node}", False, detail, f"{advice} {worker.node}")
        elif not worker.consumes:
            what = "is stopping" if worker.report.is_stopping else "takes no messages"
            yield Check(f"worker {worker.node}", False, what, f"On its host: {COMMAND} logs worker")
    if up := [worker for worker in found if worker.consumes]:
        yield Check("workers", True, f"{len(up)} take messages", figures={"consuming": len(up)})
    releases = {worker.report.release: worker.node for worker in found if worker.report}
    if len(releases) > 1:
        detail = "workers differ: " + ", ".join(f"{node} runs {name}" for name, node in releases.items())
        yield Check("releases at work", True, detail, "Finish the deployment: playbooks/deploy.yml", warns=True)


def _beat(ticked: float | None) -> Check:
    if ticked is not None and ticked <= _BEAT_SILENCE_SECONDS:
        return Check("beat", True, f"looked at its schedule {ticked:.0f} s ago")
    detail = "has not looked at its schedule" + ("" if ticked is None else f" for {duration(ticked)}")
    return Check("beat", False, detail, f"On a host of celery_beat: {COMMAND} ps, {COMMAND} restart beat")


def _consuming() -> Iterator[Check]:
    from tasks.monitoring.canary import consumption

    found = consumption(application())
    if stuck := [queue.name for queue in found if not queue.ok]:
        advice = f"{COMMAND} worker:info shows what the workers are at; then {COMMAND} restart worker, on their hosts"
        yield Check("consuming", False, f"no worker took a canary from {', '.join(stuck)}", advice)
    elif busy := max(queue.at_work for queue in found):
        yield Check("consuming", True, f"all processes are at work, on {busy} tasks")
    else:
        slowest = max(queue.seconds or 0 for queue in found)
        yield Check("consuming", True, f"a canary came back from each queue, the last after {slowest * 1000:.0f} ms")


def _by_postgresql() -> Iterator[Check]:
    from tasks.settings import get_settings
    from tasks.storage.counts import count
    from tasks.storage.states import OutboxState

    found = count()
    yield Check("postgresql", True, "answers")
    yield from nothing_waits_for_a_person(found, COMMAND)
    outbox = {row.state: row for row in found.outbox}
    bound, queued = get_settings().send.delay_warning, outbox.get(OutboxState.QUEUED)
    if queued and queued.oldest_seconds > bound:
        detail = f"{queued.messages:,} messages wait, the oldest for {duration(queued.oldest_seconds)}"
        yield Check("outbox", True, detail, f"{COMMAND} outbox list --all-tenants shows their errors", warns=True)
