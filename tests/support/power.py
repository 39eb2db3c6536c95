"""A switch that cuts the power of hosts, all at the same moment."""

import socket
import threading
import time

from tests.support.tcp_server import TcpServer

# Waits for the switch. The kernel then kills everything on its host and boots again (reboot(2)): nothing is stopped,
# closed or written to a disk before.
_WAIT = "import ctypes, socket\nif socket.create_connection({switch}).recv(1): ctypes.CDLL(None).reboot(0x01234567)"
_SECONDS = 300


class PowerSwitch(TcpServer):
    """Hosts hang on this switch by a process that waits for a word of it."""

    host = "0.0.0.0"

    def __init__(self) -> None:
        super().__init__()
        self._hanging: list[socket.socket] = []
        self._ended = threading.Event()

    def command(self, address: str) -> str:
        """The shell command that hangs a host, which reaches this machine at `address`, on the switch."""
        code = _WAIT.format(switch=f'("{address}", {self.port})')
        return f"systemd-run --quiet python3 -c '{code}'"

    def cut(self, hosts: int) -> float:
        """Cut the power of all hosts once so many hang on the switch; when that was."""
        deadline = time.monotonic() + _SECONDS
        while len(self._hanging) < hosts:
            assert time.monotonic() < deadline, f"{len(self._hanging)} of {hosts} hosts hang on the switch"
            time.sleep(0.01)
        for connection in self._hanging:
            connection.sendall(b".")
        return time.time()

    def serve(self, connection: socket.socket, _: int) -> None:
        with connection:
            self._hanging.append(connection)
            self._ended.wait()

    def hang_up(self) -> None:
        self._ended.set()
