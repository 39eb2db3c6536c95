"""Where Flower's page of the broker asks how long the queues are: at the master, where Redis has Sentinels.

Flower reads the address from the URL of the broker, in which the master's name stands for its address then.
"""

import sys
from contextlib import suppress
from typing import Any

from celery.signals import import_modules
from redis.exceptions import RedisError

from tasks.runtime.broker.master import find_master
from tasks.settings import get_settings


def connect() -> None:
    """Have the Flower that this process may be about to run ask the master."""
    import_modules.connect(_replace)


def _replace(**_: Any) -> None:
    if broker := sys.modules.get("flower.utils.broker"):
        follow(broker)


def follow(broker: Any) -> None:
    """Change Flower's module of this name."""
    plain = broker.Redis._get_redis_client_args  # noqa: SLF001
    if plain.__module__ == __name__:
        return

    def at_the_master(client: Any) -> dict[str, Any]:
        options: dict[str, Any] = plain(client)
        if sentinels := get_settings().redis.broker.sentinels:
            with suppress(RedisError):  # there is no master now, which the page shows
                (options["host"], options["port"]), _ = find_master(sentinels)
        return options

    broker.Redis._get_redis_client_args = at_the_master  # noqa: SLF001
