"""`top`: the queues, workers and tasks on one screen, drawn anew every other second."""

import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from manage.examples import example
from manage.output import full_screen
from manage.session import broker_alone
from manage.task import stop
from manage.trouble import redis_words
from native.errors import StackError

if TYPE_CHECKING:
    from redis import Redis

    from manage.top_screen import Shown, View

_EVERY_SECONDS = 2
# PostgreSQL counts over all accounts.
_COUNT_SECONDS = 10
# So that the screen follows the size of the terminal, and the ages of tasks.
_DRAW_SECONDS = 0.5
# An arrow, or any other key.
_KEY = re.compile(rb"\x1b[\[O][A-D]|.", re.DOTALL)
_QUIT = (b"q", b"Q", b"\x03", b"")
_UP, _DOWN = (b"\x1b[A", b"\x1bOA", b"k"), (b"\x1b[B", b"\x1bOB", b"j")


@example("top")
@click.command()
def top() -> None:
    """Watch queues, workers and tasks on one screen, from 80 columns and 24 lines on.

    Shown are depths and rates of the queues, accounts that fail by provider, the slowest tasks of the last minute,
    the workers, and each of their processes with its memory and its task. Everything is read from Redis and
    PostgreSQL; if one of them is away, that is shown, and the screen goes on with the other.

    Keys: q quits, s sorts the processes by another column, p stops and continues the screen, the arrows (or j and k)
    choose a task, r revokes it and stops it where it runs, after a question.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise StackError(
            "top needs a terminal (over ssh: ssh -t). For programs: queue:status --json, worker:info --json"
        )
    with broker_alone() as client:
        from manage.top_screen import Shown, View
        from manage.top_sources import Broker, Source
        from tasks.storage.counts import count

        broker = Source(Broker(client).read, _EVERY_SECONDS, _words)
        counts = Source(count, _COUNT_SECONDS, _words)
        broker.start()
        counts.start()
        _watch(lambda: Shown(broker.seen, counts.seen), View(), client)


def _words(error: Exception) -> str:
    """What to say of a source that cannot be read."""
    from tasks.errors import EmailError

    if (said := redis_words(error)) or isinstance(error, EmailError):
        return said or str(error)
    return f"PostgreSQL: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _watch(read: Any, view: "View", client: "Redis") -> None:
    from manage.top_screen import frame

    shown = read()
    with _keys() as wait, full_screen() as draw:
        while True:
            shown = shown if view.is_paused else read()
            draw(partial(frame, shown, view, time.strftime("%H:%M:%S")))
            for key in wait(_DRAW_SECONDS):
                if key in _QUIT:
                    return
                _press(key, view, shown, client)


def _press(key: bytes, view: "View", shown: "Shown", client: "Redis") -> None:
    from manage.top_screen import Sort, processes

    view.said = ""
    if view.asks:
        view.asks = False
        if key in (b"y", b"Y") and view.chosen:
            view.said = _stop(client, view.chosen)
        return
    rows = processes(shown.broker.value, view.sort) if shown.broker.value else []
    if key in _UP or key in _DOWN:
        view.move(rows, -1 if key in _UP else 1)
    elif key == b"s":
        sorts = list(Sort)
        view.sort = sorts[(sorts.index(view.sort) + 1) % len(sorts)]
    elif key == b"p":
        view.is_paused = not view.is_paused
    elif key == b"r":
        view.asks = view.chosen is not None
        view.said = "" if view.asks else "Choose a task first, with the arrows"


def _stop(client: "Redis", task_id: str) -> str:
    """Revoke a task; what became of that."""
    try:
        stop(client, task_id)
    except Exception as error:
        return f"{task_id} is not revoked: {_words(error)}"
    return f"{task_id} is revoked, and stopped where it runs"


@contextmanager
def _keys() -> Iterator[Any]:
    """Keys as they are pressed, without Enter and unseen: a function that waits for them for so many seconds.

    An empty key means that the terminal is gone.
    """
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    # Ctrl-Z would leave the shell on the other screen.
    stopped = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    ended = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the terminal is left as it was
    try:
        tty.setcbreak(terminal)
        yield lambda seconds: _pressed(terminal, seconds)
    except KeyboardInterrupt:
        pass  # how it is ended, too
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, ended)
        signal.signal(signal.SIGTSTP, stopped)


def _pressed(terminal: int, seconds: float) -> list[bytes]:
    if not select.select([terminal], [], [], seconds)[0]:
        return []
    read = os.read(terminal, 64)
    return _KEY.findall(read) or [read]
