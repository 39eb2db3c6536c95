"""Writes to systemd's journal in its own protocol, in which an entry has fields and may have several lines.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/: an entry is one datagram to /run/systemd/journal/socket. If an entry is
too large for that, the datagram has the descriptor of a sealed file in memory (memfd_create(2)) that holds the entry.

A journal that is away, hangs or is overrun keeps no task from its work. A line waits for a moment; a line that is not
taken is lost, and no line waits until the journal takes one again. Then an entry says how many lines were lost.
"""

import errno
import fcntl
import logging
import os
import re
import socket
import struct
import sys
from array import array
from collections.abc import Mapping
from pathlib import Path

from tasks.log_fields import FIELDS, Field

SOCKET = "/run/systemd/journal/socket"
# How long a line waits for a journal that is busy with the lines before it.
_WAIT_SECONDS = 0.2
# sd-daemon(3): the levels of syslog, from 0 for emergencies to 7 for debugging.
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_CGROUP = re.compile(r"(?m)^\d+:([^:]*):(.*)$")


class Journal:
    """The journal's socket. Used by one thread at a time."""

    def __init__(self, address: str) -> None:
        self._address = address
        # Not connected: a journal that made its socket anew gets the next entry.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        seconds = divmod(int(_WAIT_SECONDS * 1_000_000), 1_000_000)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", *seconds))
        self._lost, self._of_process = 0, os.getpid()

    def write(self, entry: Mapping[str, object]) -> None:
        """Send an entry: fields by their names in the journal."""
        if self._of_process != os.getpid():  # the process that forked this one reports its losses itself
            self._lost, self._of_process = 0, os.getpid()
        if not self._send(_packed(entry)):
            self._lost += 1
        elif self._lost:
            self._report({name: entry[name] for name in ("SYSLOG_IDENTIFIER",) if name in entry})

    def _report(self, origin: Mapping[str, object]) -> None:
        words = f"{self._lost} lines of the log are lost: the journal did not take them"
        report = {
            **origin,
            "MESSAGE": words,
            "PRIORITY": _PRIORITIES[logging.WARNING],
            Field.LOST.in_journal: self._lost,
        }
        if self._send(_packed(report)):
            self._lost = 0

    def _send(self, entry: bytes) -> bool:
        """Whether the journal took the entry."""
        try:
            try:
                self._socket.sendto(entry, self._flags, self._address)
            except OSError as error:
                if not _is_too_large(error):
                    raise
                self._send_as_file(entry)
        except OSError:  # of any kind: there is no place left to report it
            return False
        return True

    @property
    def _flags(self) -> int:
        """Only a line before which none was lost waits."""
        return socket.MSG_DONTWAIT if self._lost else 0

    def _send_as_file(self, entry: bytes) -> None:
        descriptor = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(entry)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))
            self._socket.sendmsg([], [rights], self._flags, self._address)
        finally:
            os.close(descriptor)


class JournalHandler(logging.Handler):
    """Writes each record as one entry."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._identifier = unit_of(Path("/proc/self/cgroup").read_text()) or "celery"

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        try:
            self._journal.write(self._entry(record))
        except Exception:  # as in every handler of `logging`
            self.handleError(record)

    def _entry(self, record: logging.LogRecord) -> dict[str, object]:
        fields: Mapping[Field, str] = getattr(record, FIELDS, {})
        return {
            "MESSAGE": self.format(record),
            "PRIORITY": _PRIORITIES.get(record.levelno, 6),
            "SYSLOG_IDENTIFIER": self._identifier,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
            "LOGGER": record.name,
            **{field.in_journal: value for field, value in fields.items()},
        }


def is_standard_error(stream: str) -> bool:
    """Whether standard error is the stream that systemd names in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        seen = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # standard error is closed, captured, or missing
        return False
    return stream == f"{seen.st_dev}:{seen.st_ino}"


def _packed(entry: Mapping[str, object]) -> bytes:
    texts = ((name, str(value)) for name, value in entry.items())
    return b"".join(_packed_field(name.encode(), text.encode(errors="backslashreplace")) for name, text in texts)


def _packed_field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:
        return name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name + b"=" + value + b"\n"


def _is_too_large(error: OSError) -> bool:
    return error.errno in (errno.EMSGSIZE, errno.ENOBUFS)


def unit_of(groups: str) -> str | None:
    """The name of the unit in /proc/PID/cgroup (cgroups(7)), as sd_pid_get_unit(3) finds it, without its suffix."""
    of_systemd = [path for name, path in _CGROUP.findall(groups) if name in ("", "name=systemd")]
    parts = [part for path in of_systemd for part in reversed(path.split("/"))]
    return next((part.removesuffix(".service") for part in parts if part.endswith(".service")), None)
