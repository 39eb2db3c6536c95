"""Prints the end of the log files, and the lines that are added: all, or those of an account, a task, a time."""

import contextlib
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from tasks.log_fields import Field
from tasks.secrecy.visible import visible

_WAIT_SECONDS = 0.2
# How much of the end of a log is read: more than fifty long lines.
_TAIL_BYTES = 1_000_000
# When a line was written: by our programs, supervisord and PostgreSQL; by Redis; by Dovecot, without the year.
_TIMES = (
    (re.compile(r"\[?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:[.,]\d+)?(?: (UTC))?"), "%Y-%m-%d %H:%M:%S"),
    (re.compile(r"\d+:\w (\d\d \w{3} \d{4} \d\d:\d\d:\d\d)()"), "%d %b %Y %H:%M:%S"),
    (re.compile(r"(\w{3} \d\d \d\d:\d\d:\d\d)()"), "%Y %b %d %H:%M:%S"),
)
# A field at the end of a line (tasks/runtime/log/line.py).
_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


@dataclass(frozen=True)
class Wanted:
    """Which lines to print: those that have all that is given."""

    since: datetime | None = None
    account: str | None = None
    task_id: str | None = None

    @property
    def is_everything(self) -> bool:
        """Whether every line is wanted."""
        return self == Wanted()

    def matches(self, line: str) -> bool:
        """Whether a line is wanted that begins an entry of a log."""
        if self.since and (_written_at(line) or self.since) < self.since:
            return False
        asked = {Field.ACCOUNT: self.account, Field.TASK_ID: self.task_id}
        fields = _fields_of(line)
        return all(fields.get(field) == value for field, value in asked.items() if value is not None)


def show(
    folder: Path,
    names: Sequence[str],
    *,
    lines: int | None,
    follow: bool,
    wanted: Wanted = Wanted(),
    out: TextIO = sys.stdout,
) -> bool:
    """Print the last lines of each log (None: all that are wanted). Returns whether there were any.

    With several logs, each line carries the program's name.
    """
    width = max(len(name) for name in names)
    tails = [_Tail(folder / f"{name}.log", f"{name:{width}} | " if len(names) > 1 else "", wanted) for name in names]
    found = [tail.print_end(lines, out) for tail in tails]
    with contextlib.suppress(KeyboardInterrupt):  # how following is ended
        while follow:
            printed = [tail.print_new(out) for tail in tails]
            if not any(printed):
                out.flush()
                time.sleep(_WAIT_SECONDS)
    return any(found)


def clear(folder: Path) -> int:
    """Delete the older files of the logs and empty those that are being written. Returns how many bytes went.

    The supervisor appends to its files, so that it goes on at the beginning of an emptied one.
    """
    removed = 0
    for path in folder.glob("*.log*"):
        removed += path.stat().st_size
        if path.suffix == ".log":
            os.truncate(path, 0)
        else:
            path.unlink(missing_ok=True)
    return removed


class _Tail:
    """One log file, which the supervisor may rename and begin anew."""

    def __init__(self, path: Path, prefix: str, wanted: Wanted = Wanted()) -> None:
        self._path = path
        self._prefix = prefix
        self._wanted = wanted
        self._is_in_wanted = wanted.is_everything  # whether the last entry was wanted
        self._inode = 0
        self._position = 0

    def print_end(self, lines: int | None, out: TextIO) -> bool:
        """Print the last `lines` lines. Returns whether there were any."""
        if not self._path.exists():
            return False
        found = self._chosen(self._last_lines() if self._wanted.is_everything else self._all_lines())
        return self._print(found if lines is None else deque(found, maxlen=lines), out)

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
        self._print(self._chosen(whole.decode(errors="replace").split("\n") if newline else []), out)
        return bool(newline)

    def _last_lines(self) -> list[str]:
        with self._path.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(0, end - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
            self._inode, self._position = self._path.stat().st_ino, log.tell()
        return text.removesuffix("\n").split("\n") if text else []

    def _all_lines(self) -> Iterator[str]:
        """Also those in the files that the supervisor has renamed, name.log.1 being the newest."""
        older = sorted(self._path.parent.glob(f"{self._path.name}.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
        for path in (*older, self._path):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as log:  # renamed again meanwhile
                self._inode, self._position = os.fstat(log.fileno()).st_ino, 0
                for line in log:
                    self._position += len(line)
                    yield line.decode(errors="replace").removesuffix("\n")

    def _chosen(self, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
        """The lines of wanted entries. A line that does not begin with a time belongs to the entry before."""
        for line in lines:
            if not self._wanted.is_everything and _written_at(line):
                self._is_in_wanted = self._wanted.matches(line)
            if self._is_in_wanted:
                yield line

    def _print(self, lines: Sequence[str] | Iterator[str] | deque[str], out: TextIO) -> bool:
        count = 0
        for line in lines:
            # PostgreSQL begins the second line of a message with a tab.
            shown = visible(line.removesuffix("\r").expandtabs())
            out.write(f"{self._prefix}{shown}\n")
            count += 1
        return count > 0


def _written_at(line: str) -> datetime | None:
    """When a line was written that begins with a time."""
    for pattern, form in _TIMES:
        if found := pattern.match(line):
            text = found[1] if re.search(r"\d{4}", found[1]) else f"{datetime.now().astimezone().year} {found[1]}"
            with contextlib.suppress(ValueError):
                written = datetime.strptime(text, form)  # noqa: DTZ007 - the zone comes next
                return written.replace(tzinfo=UTC) if found[2] else written.astimezone()
    return None


def _fields_of(line: str) -> dict[str, str]:
    _, separator, fields = line.rpartition("\t")
    found = _FIELD.findall(fields) if separator else ()
    return {name: json.loads(value) if value.startswith('"') else value for name, value in found}
