"""Celery's pool of processes, changed so that a worker can stop at once and acknowledges all that its processes did,
and that a task gets our own error at its soft time limit.

When a worker loses its connection to the broker, and when it stops, Celery forgets the tasks whose process
has not said yet that it began them. The process does such a task all the same, but nobody reads its
result, and before the process ends it waits 30 s for a reader (GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT
of billiard). The task is delivered again and is done twice. Here a task counts as begun when it is written
to a process, and results are read until the last process has ended.
"""

import gc
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import wait
from typing import Any, NoReturn

from billiard.pool import SIG_SOFT_TIMEOUT, TERMINATE, WorkersJoined
from celery.concurrency import asynpool, prefork

from tasks.errors import SoftTimeLimitError

_LOOK_SECONDS = 0.1


class _ResultHandler(asynpool.ResultHandler):  # type: ignore[misc]  # celery has no types
    def on_stop_not_started(self) -> None:
        """Read results until all processes have ended; called when the pool is joined. Celery's returns as soon as it
        knows of no more tasks."""
        gone: set[int] = set()
        while self._state != TERMINATE and (outqueues := set(self.fileno_to_outq) - gone):
            self.read(outqueues, gone, _LOOK_SECONDS)
            if self.check_timeouts is not None:  # end tasks that are over their time limits
                self.check_timeouts()
            try:
                self.join_exited_workers(shutdown=True)
            except WorkersJoined:
                return

    def read(self, outqueues: Iterable[int], gone: set[int], seconds: float) -> None:
        """Read the results that processes have written, or write within these seconds.

        Adds ended processes to `gone`.
        """
        for fd in wait(outqueues, seconds):
            self._flush_outqueue(fd, gone.add, self.fileno_to_outq, self.on_state_change)


class _Process(asynpool.Worker):  # type: ignore[misc]
    def after_fork(self) -> None:
        """Prepare the process for tasks, in which the signal of the soft time limit raises SoftTimeLimitError."""
        super().after_fork()
        signal.signal(SIG_SOFT_TIMEOUT, _end_task)


def _end_task(*_: object) -> NoReturn:
    raise SoftTimeLimitError


class _Pool(asynpool.AsynPool):  # type: ignore[misc]
    Worker = _Process
    ResultHandler = _ResultHandler
    started = 0  # how many processes it has started so far

    def _create_worker_process(self, i: int) -> Any:
        self.started += 1
        return super()._create_worker_process(i)

    @property
    def pids(self) -> list[int]:
        """The ids of its processes."""
        return [process.pid for process in tuple(self._pool) if process.pid]

    def finish_writes(self) -> None:
        """Finish tasks that are written to a process only in part:
        the event loop that was writing them has forgotten them."""
        processes = {asynpool._get_job_writer(job): job._write_to for job in self._cache.values()}  # noqa: SLF001
        for writer in tuple(self._active_writers):
            self._flush_writer(processes[writer], writer)
            writer.close()

    def read_results(self) -> None:
        """Read the results that processes wrote while there was no event loop to read them."""
        self._result_handler.read(tuple(self._fileno_to_outq), set(), 0)

    def flush(self) -> None:
        """Forget the tasks that were not written to any process."""
        for job in self._cache.values():
            job._accepted = job._accepted or job._write_to is not None  # noqa: SLF001
        super().flush()

    def is_at_work(self, grace: float) -> bool:
        """Whether a process has begun a task and is within the time limit of the task, plus these seconds."""
        now, jobs = time.monotonic(), self._cache.values()
        return any(job._time_accepted and now < job._time_accepted + job._timeout + grace for job in jobs)  # noqa: SLF001


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """Celery's pool, made of the pool above."""

    Pool = _Pool

    def on_start(self) -> None:
        """Start the processes, which share the memory of what the worker has loaded."""
        # A collection writes a mark into each object that it looks at, so that the process gets a copy of nearly all
        # that it had shared. Frozen objects are not looked at.
        gc.collect()
        gc.freeze()
        super().on_start()

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return self._pool.pids  # type: ignore[no-any-return]

    @property
    def restarts(self) -> int:
        """How many processes were started in the place of others."""
        return max(self._pool.started - self.num_processes, 0)  # type: ignore[no-any-return]

    def finish_writes(self) -> None:
        """Finish tasks that are written to a process only in part."""
        self._pool.finish_writes()

    def read_results(self) -> None:
        """Read the results of ended tasks, before the event loop
        looks at time limits and takes these tasks for too slow."""
        self._pool.read_results()

    def is_at_work(self, grace: float) -> bool:
        """Whether a process has begun a task and is within the time limit of the task, plus these seconds."""
        return bool(self._pool.is_at_work(grace))

    def probe(self, begun: Callable[[], object]) -> None:
        """Give a free process, if there is any, a job that does nothing.

        `begun` is called when the process begins the job.
        """
        slots = self._pool._putlock  # noqa: SLF001 - each task that is given to the pool takes a slot
        if slots.value:
            slots.acquire(partial(self.apply_async, int, accept_callback=lambda *_: begun()))
