"""In place of systemd: what a unit says of itself."""

import socket
from pathlib import Path


class Manager:
    """The socket on which a service manager is told what a unit is at (sd_notify(3))."""

    def __init__(self, path: Path) -> None:
        self.path, self._last = str(path), ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def status(self) -> str:
        """The last that it was told."""
        try:
            while True:
                for line in self._socket.recv(4096).decode().splitlines():
                    self._last = line.removeprefix("STATUS=") if line.startswith("STATUS=") else self._last
        except BlockingIOError:
            return self._last

    def close(self) -> None:
        self._socket.close()
