"""Whether the site works: PostgreSQL answers, and each queue is consumed, as a canary on it shows."""

from collections.abc import Iterator

from celery import Celery

from tasks.monitoring.canary import Consumption, consumption
from tasks.monitoring.exporter.question import Question
from tasks.storage.session import database_now

# How long a canary has to come back, and the whole question. The latter allows for a Redis that answers slowly.
_CANARY_SECONDS, _PATIENCE_SECONDS = 5, 12
_DATABASE_SECONDS = 4
# So long one answer does for everybody, or frequent questions would keep the workers busy with canaries.
_SHARED_SECONDS = 5


class Readiness:
    """Looks at the site of this application."""

    def __init__(self, app: Celery) -> None:
        options = {"shared_seconds": _SHARED_SECONDS}
        self._database = Question("PostgreSQL (/readyz)", database_now, patience=_DATABASE_SECONDS, **options)
        self._queues = Question(
            "Redis (/readyz)",
            lambda: consumption(app, patience=_CANARY_SECONDS),
            patience=_PATIENCE_SECONDS,
            **options,
        )

    def queues(self) -> tuple[Consumption, ...]:
        """How each queue is consumed. Raises TimeoutError and what `consumption` raises."""
        return self._queues.answer()

    def problems(self) -> Iterator[str]:
        """What keeps the site from working, in words; nothing if it works."""
        try:
            self._database.answer()
        except Exception:
            yield "PostgreSQL cannot be read"
        yield from self.problems_of_queues()

    def problems_of_queues(self) -> Iterator[str]:
        """What keeps the queues from being consumed, in words; nothing if they are."""
        try:
            idle = [queue.name for queue in self.queues() if not queue.ok]
        except Exception:
            yield "Redis cannot be asked whether the queues are consumed"
        else:
            if idle:
                yield f"no worker consumes {', '.join(idle)}"
