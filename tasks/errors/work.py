"""Tasks, and the services that they stand on: PostgreSQL, Redis, the memory of a worker."""

from kombu.exceptions import OperationalError

from tasks.errors.base import PermanentError, Remedy, TransientError


class SoftTimeLimitError(Exception):
    """The soft time limit of the task has passed.

    The error strikes at any point of a task. It is no EmailError, so that code that handles
    errors of mail servers and of storage does not take the end of the task's time for such an error.
    """

    def __str__(self) -> str:
        return "the soft time limit has passed"


class StorageUnavailableError(TransientError):
    """PostgreSQL could not be reached or could not store what it got; nothing is lost, tasks are tried again."""

    code = "storage_unavailable"


class BrokerUnavailableError(TransientError, OperationalError):  # type: ignore[misc]  # kombu has no types
    """Redis did not answer. A task that was to be queued may be queued or not: a second call may queue it twice,
    except for two sends with the same idempotency_key."""

    code = "broker_unavailable"


class ResultsUnavailableError(BrokerUnavailableError):
    """The result store does not say what became of the task. The task itself goes on without it."""

    code = "results_unavailable"


class PoisonedTaskError(PermanentError):
    """This task keeps killing its worker; it is set aside until a person retries or drops it."""

    code = "poisoned"
    remedy = Remedy.RETRY_TASK


class MessageUnreadableError(PermanentError):
    """The task message is not one that a worker can run."""

    code = "message_unreadable"


class TaskUnknownError(PermanentError):
    """This release does not know the task or its arguments; a worker whose release knows them takes the message."""

    code = "task_unknown"


class OutOfMemoryError(PermanentError):
    """The worker had not enough memory for this task."""

    code = "out_of_memory"


class InternalError(PermanentError):
    """A defect of this program; the worker's log has the details."""

    code = "internal_error"
