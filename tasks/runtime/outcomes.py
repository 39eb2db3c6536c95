"""How one run of a task can end. Without Celery, for verbs that have to be quick."""

from enum import StrEnum, auto


class Outcome(StrEnum):
    """How one run of a task ended."""

    SUCCESS = auto()
    FAILURE = auto()  # for good: the task is a dead letter now
    RETRY = auto()  # it runs again, after an error or for work that is left
    DEFERRED = auto()  # another task does the rest, under the same id
    GIVEN_BACK = auto()  # its message lies on its queue again, as no fault of the task kept it from running
    REVOKED = auto()
    EXPIRED = auto()  # nobody took it in time
    TIMED_OUT = auto()  # its process was killed at the hard time limit
    LOST = auto()  # its process died
