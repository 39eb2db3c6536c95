"""What has piled up, said alike by the native stack and a site: old messages, overdue accounts, dead letters.

None of it is a fault of the stack or the site: a person should look. `command` is how verbs are run there. The
environment must be in effect.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from native.check import Check, duration

if TYPE_CHECKING:
    from tasks.monitoring.readings.queues import QueueReading
    from tasks.storage.counts import Counts

# A message that has been due for longer is late.
_OLD_SECONDS = 300
# A task queued in SQL is published within milliseconds.
_LATE_SECONDS = 60


def messages_are_young(waiting: "Sequence[QueueReading]", command: str, concurrency: str) -> Check:
    """The check of how long messages have been due, with a warning where that is long.

    `concurrency` is what sets there how many tasks a worker runs at once.
    """
    old = [queue for queue in waiting if (queue.oldest_seconds or 0) > _OLD_SECONDS]
    depth = sum(queue.depth for queue in waiting)
    oldest = max((queue.oldest_seconds or 0 for queue in waiting), default=0)
    figures = {"depth": depth, "oldest_seconds": oldest}
    if not old:
        return Check("queues", True, f"{depth:,} messages, the oldest due for {duration(oldest)}", figures=figures)
    detail = "; ".join(
        f"{one.name}: {one.depth:,}, the oldest due for {duration(one.oldest_seconds or 0)}" for one in old
    )
    advice = f"See what takes long: {command} tasks active, {command} stats. More workers, or {concurrency}"
    return Check("queues", True, detail, advice, warns=True, figures=figures)


def nothing_waits_for_a_person(found: "Counts", command: str) -> Iterator[Check]:
    """The checks of overdue accounts, dead letters, mail that may have been sent, and unpublished tasks."""
    from tasks.storage.counts import OVERDUE_SECONDS
    from tasks.storage.states import OutboxState

    overdue = sum(late.accounts for late in found.late if late.seconds == OVERDUE_SECONDS)
    yield _counted(
        "accounts",
        overdue,
        f"overdue: their sync has been due for more than {duration(OVERDUE_SECONDS)}",
        f"Look at workers and beat first, then at {command} account list --tenant TENANT",
    )
    letters = sum(kind.letters for kind in found.dead_letters if not kind.is_retried)
    yield _counted("dead letters", letters, "not retried", f"{command} dlq list, then dlq retry or dlq drop")
    unknown = sum(row.messages for row in found.outbox if row.state == OutboxState.UNKNOWN)
    advice = f"{command} outbox list --tenant TENANT, then outbox sent or outbox resend"
    yield _counted("outbox in doubt", unknown, "nobody knows whether they were sent", advice)
    late = [row for row in found.queued_tasks if row.is_aside or row.oldest_seconds > _LATE_SECONDS]
    oldest = duration(max((row.oldest_seconds for row in late), default=0))
    yield _counted(
        "queued in SQL",
        sum(row.tasks for row in late),
        f"not published, the oldest for {oldest}",
        f"Look at beat first, then at {command} dlq list",
    )


def _counted(component: str, count: int, what: str, advice: str) -> Check:
    if not count:
        return Check(component, True, "none", figures={"count": 0})
    return Check(component, True, f"{count:,} {what}", advice, warns=True, figures={"count": count})
