"""Celery's pool of processes, which a stop neither waits for in vain nor leaves with work that nobody acknowledges.

When a worker loses its connection to the broker, and when it stops, Celery forgets the tasks whose process has not
said yet that it began them. The process does them all the same, its result is read by nobody, and before it ends it
waits 30 s for that (GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT of billiard). The task comes back and is done twice.
Here what was written to a process counts as begun, and what the processes say is read until the last one has ended.
"""

from collections.abc import Iterable
from multiprocessing.connection import wait

from billiard.pool import TERMINATE, WorkersJoined
from celery.concurrency import asynpool, prefork

_LOOK_SECONDS = 0.1


class _ResultHandler(asynpool.ResultHandler):  # type: ignore[misc]  # celery has no types
    def on_stop_not_started(self) -> None:
        """Called when the pool is joined. Celery's returns when it waits for no result any more."""
        gone: set[int] = set()
        while self._state != TERMINATE and (outqueues := set(self.fileno_to_outq) - gone):
            self.read(outqueues, gone, _LOOK_SECONDS)
            if self.check_timeouts is not None:  # of what has not ended by now
                self.check_timeouts()
            try:
                self.join_exited_workers(shutdown=True)
            except WorkersJoined:
                return

    def read(self, outqueues: Iterable[int], gone: set[int], seconds: float) -> None:
        """What processes have said, or say within these seconds. Those that have ended are added to `gone`."""
        for fd in wait(outqueues, seconds):
            self._flush_outqueue(fd, gone.add, self.fileno_to_outq, self.on_state_change)


class _Pool(asynpool.AsynPool):  # type: ignore[misc]
    ResultHandler = _ResultHandler

    def finish_writes(self) -> None:
        """Write the rest of what a process has been given in part: the event loop that wrote it has forgotten it."""
        processes = {asynpool._get_job_writer(job): job._write_to for job in self._cache.values()}  # noqa: SLF001
        for writer in tuple(self._active_writers):
            self._flush_writer(processes[writer], writer)
            writer.close()

    def read_results(self) -> None:
        """Read what processes have said while nobody listened."""
        self._result_handler.read(tuple(self._fileno_to_outq), set(), 0)

    def flush(self) -> None:
        """Forget what no process has been given."""
        for job in self._cache.values():
            job._accepted = job._accepted or job._write_to is not None  # noqa: SLF001
        super().flush()


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """Celery's, of such processes."""

    Pool = _Pool

    def finish_writes(self) -> None:
        """Write the rest of what processes have been given in part."""
        self._pool.finish_writes()

    def read_results(self) -> None:
        """Read results of ended tasks, before the event loop takes their time limits for exceeded."""
        self._pool.read_results()
