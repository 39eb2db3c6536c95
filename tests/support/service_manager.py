"""In place of systemd: what a unit says of itself."""

import contextlib
import socket
from pathlib import Path


class Manager:
    """The socket on which a service manager is told what a unit is at (sd_notify(3))."""

    def __init__(self, path: Path) -> None:
        self.path, self._last, self._is_ready = str(path), "", False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def status(self) -> str:
        """The last that it was told."""
        self._read()
        return self._last

    def is_ready(self) -> bool:
        """Whether it was told that the unit has started."""
        self._read()
        return self._is_ready

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                for line in self._socket.recv(4096).decode().splitlines():
                    self._last = line.removeprefix("STATUS=") if line.startswith("STATUS=") else self._last
                    self._is_ready |= line == "READY=1"

    def close(self) -> None:
        self._socket.close()
