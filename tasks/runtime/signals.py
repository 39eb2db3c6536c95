"""What happens in a worker's main process, for whoever wants to listen (tasks/monitoring/reporter.py).

Celery's own signals of tasks are sent in the processes of the pool. These are sent where the worker hears of it. An
error of a listener is logged and stops no task.
"""

from celery.utils.dispatch import Signal

# A process of the pool begins a task. The sender is the request (tasks/runtime/request.py); `at` is in seconds of
# time.monotonic().
task_begun = Signal(name="task_begun", providing_args={"at"})

# A task ended, each once. The sender is the request; `error` is None where there was none, and `seconds`, for which
# the task ran, where it did not run.
task_ended = Signal(name="task_ended", providing_args={"outcome", "error", "seconds"})
