"""Tasks that kill their worker: the redeliveries of a task are counted before it runs, and are bounded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tasks.errors import PoisonedTaskError
from tasks.runtime import redeliveries
from tasks.runtime.task.retried import RetriedTask
from tasks.settings import get_settings
from tasks.storage import dead_letters


class CountedTask(RetriedTask):
    """A task that runs no more after it has killed its worker several times (tasks/runtime/redeliveries.py)."""

    abstract = True

    def made_progress(self) -> None:
        """Reset the count of redeliveries: the task stored a part
        of its work, so it got past what killed its workers."""
        if self.has_killed:
            redeliveries.note_progress(self.app, self._key(self.request.args, self.request.kwargs))
            self.request.redeliveries = 0

    @property
    def has_killed(self) -> bool:
        """Whether workers are known to have died while they ran the task."""
        return bool(self.request.get("redeliveries"))

    def quarantined(self, error: PoisonedTaskError, *args: Any, **kwargs: Any) -> None:
        """Called with the task's arguments before the task is kept from running."""

    @contextmanager
    def counted(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Count a redelivery before the work in this block, and note how the work ended.

        Raises PoisonedTaskError after too many redeliveries.
        """
        key = self._key(args, kwargs)
        history = self._begin(key, args, kwargs)
        try:
            yield
        except Exception:
            # This process is alive, so the task did not kill it. (SystemExit, which
            # ends the process, is no Exception.) A task that found another run at
            # work has not done its own work yet, which may still kill the process.
            if history.redeliveries and not self.request.get("looks_again"):
                redeliveries.note_survival(self.app, key, self.request.id)
            raise
        if history.is_dead:
            dead_letters.clear(self.owner(args, kwargs)[0], key, self.request.id)
            redeliveries.forget(self.app, key)
        elif history.redeliveries:
            redeliveries.note_progress(self.app, key)

    def _begin(self, key: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> redeliveries.History:
        is_redelivered = bool((self.request.delivery_info or {}).get("redelivered"))
        history = redeliveries.begin(self.app, key, self.request.id, is_redelivered=is_redelivered)
        if history.redeliveries > get_settings().worker.max_redeliveries:
            error = PoisonedTaskError(f"{history.redeliveries} redeliveries")
            self.quarantined(error, *args, **kwargs)
            raise error
        self.request.redeliveries = history.redeliveries
        return history

    def _key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        return self.key(args, kwargs, self.request.id)
