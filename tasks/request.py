"""What a worker does with a message that the broker does not take back. Only a worker imports it."""

from celery.worker.request import Request
from kombu.asynchronous import get_event_loop
from redis.exceptions import ConnectionError as LostError


class CarefulRequest(Request):  # type: ignore[misc]  # celery has no types
    """A message that could not be given back, with Redis away or full, comes back after the visibility timeout.

    Until then kombu would count it among those that the worker has in hand, and one that may have no more of them
    would wait for ever. So the worker connects anew, and has none.
    """

    def reject(self, requeue: bool = False) -> None:  # celery's signature
        """Give the message back, or throw it away."""
        super().reject(requeue)
        loop = get_event_loop()
        if loop and not self.message.acknowledged:
            loop.call_soon(_connect_anew)


def _connect_anew() -> None:
    raise LostError("the broker did not take a message back")
