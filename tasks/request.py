"""What a worker does with messages while Redis is away or full. Only a worker imports it."""

from typing import Any

from celery.exceptions import Reject
from celery.worker.request import Request
from kombu.asynchronous import get_event_loop
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError


class CarefulRequest(Request):  # type: ignore[misc]  # celery has no types
    """A message that is given back rather than lost, and a worker that goes on without it.

    One that could not be given back, with Redis away or full, comes back after the visibility timeout. Until then
    kombu would count it among those that the worker has in hand, and one that may have no more of them would wait for
    ever. So the worker connects anew, and has none.
    """

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Celery's, but a task that could not begin because its state cannot be noted is not taken for a failed one.

        With `return_ok` the task itself failed; without, something around it did.
        """
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, RedisError) and not return_ok:
            exc_info.exception = Reject(error, requeue=True)
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def reject(self, requeue: bool = False) -> None:  # celery's signature
        """Give the message back, or throw it away."""
        super().reject(requeue)
        loop = get_event_loop()
        if loop and not self.message.acknowledged:
            loop.call_soon(_connect_anew)


def _connect_anew() -> None:
    raise LostError("the broker did not take a message back")
