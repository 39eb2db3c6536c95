"""Prints the end of the log files, and the lines that are added."""

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tasks.secrecy.visible import visible

_WAIT_SECONDS = 0.2
# How much of the end of a log is read: more than fifty long lines.
_TAIL_BYTES = 1_000_000


def show(folder: Path, names: Sequence[str], *, lines: int, follow: bool, out: TextIO = sys.stdout) -> None:
    """Print the last lines of each log; with several, each line carries the program's name."""
    width = max(len(name) for name in names)
    tails = [_Tail(folder / f"{name}.log", f"{name:{width}} | " if len(names) > 1 else "") for name in names]
    for tail in tails:
        tail.print_end(lines, out)
    with contextlib.suppress(KeyboardInterrupt):  # how following is ended
        while follow:
            printed = [tail.print_new(out) for tail in tails]
            if not any(printed):
                out.flush()
                time.sleep(_WAIT_SECONDS)


class _Tail:
    """One log file, which the supervisor may rename and begin anew."""

    def __init__(self, path: Path, prefix: str) -> None:
        self._path = path
        self._prefix = prefix
        self._inode = 0
        self._position = 0

    def print_end(self, lines: int, out: TextIO) -> None:
        """Print the last `lines` lines."""
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(0, end - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
            self._inode, self._position = self._path.stat().st_ino, log.tell()
        self._print(text.removesuffix("\n").split("\n")[-lines:] if text and lines > 0 else [], out)

    def print_new(self, out: TextIO) -> bool:
        """Print the complete lines that were added. Returns whether there were any."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        if found.st_ino != self._inode or found.st_size < self._position:
            self._inode, self._position = found.st_ino, 0
        if found.st_size == self._position:
            return False
        with self._path.open("rb") as log:
            log.seek(self._position)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._position += len(whole) + len(newline)
        self._print(whole.decode(errors="replace").split("\n") if newline else [], out)
        return bool(newline)

    def _print(self, lines: list[str], out: TextIO) -> None:
        for line in lines:
            # PostgreSQL begins the second line of a message with a tab.
            shown = visible(line.removesuffix("\r").expandtabs())
            out.write(f"{self._prefix}{shown}\n")
