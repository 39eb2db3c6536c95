"""A question to a server that may not answer: bounded in time, and asked once for all who want to know."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

_logger = logging.getLogger(__name__)

T = TypeVar("T")


class Asked(Generic[T]):
    """A question that was asked, as by somebody who asks others before waiting for the answer."""

    def __init__(self, answer: Future[T], patience: float, note: Callable[[Exception | None], None]) -> None:
        self._answer, self._patience, self._note = answer, patience, note
        self._began, self._ended = time.monotonic(), 0.0
        answer.add_done_callback(self._end)

    @property
    def seconds(self) -> float:
        """How long the answer took, or has been waited for."""
        return (self._ended or time.monotonic()) - self._began

    def answer(self) -> T:
        """The answer. Raises what `ask` raises, and TimeoutError if there is no answer within the patience, which
        began when the question was asked."""
        try:
            answer = self._answer.result(max(self._began + self._patience - time.monotonic(), 0))
        except Exception as error:
            self._note(error)
            raise
        self._note(None)
        return answer

    def _end(self, _: Future[T]) -> None:
        self._ended = time.monotonic()


class Question(Generic[T]):
    """Asks `ask` in a thread of its own. Whoever wants to know meanwhile, or within `shared_seconds` after the
    answer, gets the same answer. The log gets one line for each change between answered and not answered.

    The thread stays, because connections of Celery to its result store belong to a thread.
    """

    def __init__(self, name: str, ask: Callable[[], T], *, patience: float, shared_seconds: float = 0) -> None:
        self._name, self._read = name, ask
        self._patience, self._shared_seconds = patience, shared_seconds
        self._lock = Lock()
        self._asked: Future[T] | None = None
        self._answered_at = 0.0  # in seconds of time.monotonic()
        self._is_answered = True
        self._wanted: SimpleQueue[Future[T]] = SimpleQueue()
        Thread(target=self._work, name=name, daemon=True).start()

    def answer(self) -> T:
        """The answer. Raises what `ask` raises, and TimeoutError if there is no answer within `patience` seconds."""
        return self.ask().answer()

    def ask(self) -> Asked[T]:
        """Ask, without waiting for the answer."""
        return Asked(self._asked_now(), self._patience, self._note)

    def _asked_now(self) -> "Future[T]":
        with self._lock:
            asked = self._asked
            is_good = asked and (not asked.done() or time.monotonic() - self._answered_at < self._shared_seconds)
            if asked is None or not is_good:
                self._asked = asked = Future()
                self._wanted.put(asked)
            return asked

    def _work(self) -> None:
        while True:
            wanted = self._wanted.get()
            try:
                answer = self._read()
            except BaseException as error:  # of any kind: those who wait must be told
                self._answered_at = time.monotonic()
                wanted.set_exception(error)
            else:
                self._answered_at = time.monotonic()
                wanted.set_result(answer)

    def _note(self, error: Exception | None) -> None:
        with self._lock:
            was_answered, self._is_answered = self._is_answered, error is None
        if error and was_answered:
            said = str(error).partition("\n")[0] or f"no answer within {self._patience:g} s"
            _logger.warning("%s does not answer: %s: %s", self._name, type(error).__name__, said)
        elif error is None and not was_answered:
            _logger.warning("%s answers again", self._name)
