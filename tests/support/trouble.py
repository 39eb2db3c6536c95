"""A Redis in trouble, for the length of a block."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import redis as redis_client

from tests.support.servers import RedisServer

LIMITS = {"full": "maxmemory", "out of clients": "maxclients"}


@contextmanager
def in_trouble(server: RedisServer, trouble: str) -> Iterator[None]:
    """`away`, `silent`, `full`, `out of clients` or `read-only`."""
    if trouble == "away":
        server.stop()
        yield
        server.start()
    elif trouble == "silent":
        os.kill(server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(server.pid, signal.SIGCONT)
    else:
        with redis_client.Redis(port=server.port, password=server.password, decode_responses=True) as client:
            if trouble in LIMITS:
                [before] = client.config_get(LIMITS[trouble]).values()
                client.config_set(LIMITS[trouble], 1)
                client.client_kill_filter(_type="normal", skipme=True)
                yield
                client.config_set(LIMITS[trouble], before)
            else:
                client.execute_command("REPLICAOF", "127.0.0.1", "1")
                yield
                client.execute_command("REPLICAOF", "NO", "ONE")
