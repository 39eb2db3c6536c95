"""Commands of ./manage.sh on a real terminal: `on_a_terminal` runs them, one after the other in one process.

Started by itself it is that process: it reads the commands from the file that it is given.
"""

import contextlib
import fcntl
import io
import json
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

_ROOT = Path(__file__).parents[2]
_MARK = "======== {} ========"
# Wide enough for any line: what is cut in two is not found again.
_ROWS, _COLUMNS = 100, 4000


class Call(NamedTuple):
    """A command line, and what is typed. With a first word in angle brackets: what the process does by itself."""

    arguments: Sequence[str]
    typed: str = ""
    expects: str = ""  # in what it says, so that it is known to have got there


def commands() -> set[str]:
    """The words of every verb."""
    from manage.cli import main

    def below(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                yield from below(inner, (*path, name))
        else:
            yield " ".join(path)

    return set(below(main, ()))


def on_a_terminal(calls: Sequence[Call], folder: Path) -> list[bytes]:
    """The bytes that came to the terminal from each."""
    given = folder / "calls.json"
    given.write_text(json.dumps(calls))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    command = (sys.executable, "-m", "tests.support.terminal", str(given))
    process = subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: nobody holds the other side any more
        while data := os.read(leader, 65_536):
            seen += data
    os.close(leader)
    assert process.wait(30) == 0, seen.decode(errors="replace")
    parts = []
    for number in range(len(calls)):
        before, mark, seen = seen.partition(_MARK.format(number).encode())
        assert mark, seen
        parts.append(before)
    return [*parts[1:], seen]


def _run(call: Call) -> None:
    from manage.cli import main

    sys.stdin = io.StringIO(call.typed)
    match call.arguments:
        case ["<log>", text]:
            logging.getLogger("tasks.mail").warning("the server says: %s", text)
        case ["<watch>", text]:
            _watch(text)
        case ["<bug>", text]:
            raise ValueError(text)
        case arguments:
            main(list(arguments), prog_name="./manage.sh")


def _watch(text: str) -> None:
    """A sync that is at this folder, comes to an end in this way, and says this of another one."""
    from manage import progress

    done = {"folders_done": 1, "folders_total": 3, "messages_done": 5, "messages_total": 9}
    states: list[tuple[str, Any]] = [
        ("RETRY", text),
        *[("PROGRESS", {"folder": text, **done})] * 5,
        ("FAILURE", text),
    ]
    following = iter(states)
    progress._ask = lambda task_id: next(following)
    progress.watch("id")


def _main(given: str) -> None:
    from manage import session
    from tasks.secrecy.visible import log_visibly

    log_visibly()
    session.IS_HOST = True  # the environment is that of the test, and of no native stack
    for number, call in enumerate(json.loads(Path(given).read_text())):
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(1, _MARK.format(number).encode())
        try:
            _run(Call(*call))
        except SystemExit:
            continue
        except BaseException:
            sys.excepthook(*sys.exc_info())


if __name__ == "__main__":
    _main(sys.argv[1])
