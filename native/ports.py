"""Free TCP ports on loopback."""

import random
import socket
import time
from collections.abc import Container

LOOPBACK = "127.0.0.1"
# Below the range that Linux gives to outgoing connections (32768 and up): a server that is stopped and started
# again must not find that some client has taken its port meanwhile.
_CANDIDATES = range(15_000, 32_000)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        # Servers set this option too, so connections in TIME_WAIT do not make a port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(preferred: int | None = None, *, taken: Container[int] = ()) -> int:
    """`preferred` if it is free, otherwise any free port; never one of `taken`."""
    if preferred and preferred not in taken and is_free(preferred):
        return preferred
    for port in random.sample(_CANDIDATES, 500):
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port on {LOOPBACK} between {_CANDIDATES.start} and {_CANDIDATES.stop}")


def answers(port: int, host: str = LOOPBACK, timeout: float = 1.0) -> bool:
    """Whether something accepts connections on `port`."""
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError:
        return False
    return True


def wait_until_answers(port: int, seconds: float) -> bool:
    """Wait until something accepts connections on `port`; False if nothing did in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answers(port):
            return True
        time.sleep(0.05)
    return False
