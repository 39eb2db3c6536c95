"""Lets a worker live through a failover of Redis.

When a primary becomes a replica, it ends a worker's blocking read with an error (UNBLOCKED) and refuses its writes
(READONLY). kombu takes these for errors of one command, and the worker ends. They are errors of the connection: the
worker is to connect anew, as long as it takes, and finds the primary.
"""

from typing import Any

from celery.signals import worker_init


def connect() -> None:
    """Have this process, if it becomes a worker, connect anew after such errors."""
    worker_init.connect(_reconnect_on_refusals)


def _reconnect_on_refusals(**_: Any) -> None:
    from kombu.transport.redis import Transport
    from redis.exceptions import ResponseError

    Transport.connection_errors = (*Transport.connection_errors, ResponseError)
