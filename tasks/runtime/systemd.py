"""Tells systemd the state of a unit (sd_notify(3)), so that
a unit with `Type=notify` counts as started when it works.

The state is sent when the broker first answers, and when it stops answering: for a worker by
tasks/runtime/consumer.py, for beat by tasks/runtime/scheduler.py, for Flower by tasks/monitoring/flower_events.py.
Beat has started when it has looked at its schedule once, whether the broker answered or not.

A unit with `WatchdogSec=` is restarted if nothing says within that time that it is alive. So what does the work of a
process says so itself, and no thread beside it: a worker's event loop (tasks/monitoring/watchdog.py), each tick of
beat, the event loops of Flower and of the watcher of mailboxes, the exporter's loop that takes requests. An outage of
the broker is no reason to restart, so each failed try to reach the broker counts as alive too.

Without systemd, NOTIFY_SOCKET is not set and nothing is sent.
"""

import os
import socket
from functools import cache
from typing import Any

from celery.signals import worker_shutting_down
from celery.utils.log import get_logger

_logger = get_logger(__name__)


def connect() -> None:
    """Have the worker that this process may become report to systemd."""
    worker_shutting_down.connect(_worker_drains)


def notify(*assignments: str) -> None:
    """Send `NAME=value` assignments to the service manager, if there is one and it takes them."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket, unix(7)
        address = "\0" + address[1:]
    try:
        _sender().sendto("\n".join(assignments).encode(), address)
    except OSError as error:
        _logger.warning("the service manager cannot be told %s: %s", "; ".join(assignments), error)


@cache
def _sender() -> socket.socket:
    """The socket for notifications.

    It is kept open, so that a process that can open no more files can still report that.
    """
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def watchdog_seconds() -> float | None:
    """How long this process may be silent before it is restarted (sd_watchdog_enabled(3)); None for ever."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not microseconds or pid not in (None, str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000


def notify_alive() -> None:
    """Say that this process does its work."""
    if watchdog_seconds():
        notify("WATCHDOG=1")


def notify_stuck() -> None:
    """Have this process restarted at once, as if it had been silent for too long."""
    if watchdog_seconds():
        notify("WATCHDOG=trigger")


def notify_away(consequence: str, error: Exception) -> None:
    """Say in the status of the unit that the broker fails, and with what consequence."""
    notify(f"STATUS={consequence}, the broker fails: {str(error).partition(chr(10))[0]}")


def _worker_drains(how: str, **_: Any) -> None:
    from celery.worker import state  # only a worker has this module loaded

    at_work = len(state.active_requests)
    notify("STOPPING=1", f"STATUS={how} shutdown: {at_work} tasks at work")
