"""An IMAP connection that waits in an event loop: one of thousands in a process, most of them silent.

The connection is made and logged in by `ImapConnection`, in a thread, and handed over as its socket
(`ImapConnection.hand_over`). From then on nothing blocks: a read that would block waits for the event loop. asyncio's
own streams cannot take over a socket whose TLS has begun, and would hold buffers for each connection.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable

from tasks.errors import MailServerUnavailableError, ProtocolError
from tasks.mail.connection import Endpoint

_READ_BYTES = 16 * 1024
# An answer with its literals. None that a watcher asks for is longer; the longest holds the name of a folder.
_MAX_ANSWER_BYTES = 64 * 1024
# So much is read at once, then other connections have their turn.
_TURN_BYTES = 16 * 1024
# A server that sends more than this without a pause is read more slowly.
_FLOOD_BYTES, _FLOOD_PAUSE_SECONDS = 256 * 1024, 1.0
_LITERAL = re.compile(rb"\{(\d{1,9})\+?\}\r?\n\Z")

# A host that vanished is noticed within two minutes, also while nothing is sent.
_KEEP_ALIVE = {
    socket.TCP_KEEPIDLE: 60,
    socket.TCP_KEEPINTVL: 15,
    socket.TCP_KEEPCNT: 4,
    socket.TCP_USER_TIMEOUT: 120_000,  # ms that sent data may stay unacknowledged
}


class Wire:
    """A logged-in connection. `received` is what was read from it already. Every method raises an EmailError."""

    def __init__(self, connected: socket.socket, received: bytes, endpoint: Endpoint) -> None:
        self._socket, self._received, self._endpoint = connected, received, endpoint
        self._without_pause = 0
        connected.setblocking(False)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE.items():
            connected.setsockopt(socket.IPPROTO_TCP, option, value)

    async def answer(self, seconds: float) -> bytes | None:
        """The next answer, with its literals and without its line end; None if none comes within these seconds.

        Raises MailServerUnavailableError if the connection ends, and ProtocolError for an answer that does not end.
        """
        if (end := self._end_of_answer()) is None:  # mostly it is there, and needs no timer
            try:
                async with asyncio.timeout(seconds):
                    while (end := self._end_of_answer()) is None:
                        await self._receive()
            except TimeoutError:
                return None
        answer, self._received = self._received[:end], self._received[end:]
        return answer.rstrip(b"\r\n")

    async def send(self, line: bytes) -> None:
        """Send a line. Raises MailServerUnavailableError, also if the server takes nothing in time."""
        left = line + b"\r\n"
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                while left:
                    try:
                        left = left[self._socket.send(left) :]
                    except (BlockingIOError, ssl.SSLWantWriteError):
                        loop = asyncio.get_running_loop()
                        await self._wait(loop.add_writer, loop.remove_writer)
                    except ssl.SSLWantReadError:
                        await self._until_readable()
        except TimeoutError:
            raise self._ended("it takes no more commands") from None
        except OSError as error:
            raise self._ended(str(error)) from error

    def close(self, goodbye: bytes = b"") -> None:
        """Close at once, with a last line if the server takes it without a wait; never raises."""
        try:
            if goodbye:
                self._socket.send(goodbye + b"\r\n")
        except OSError:
            pass
        finally:
            self._socket.close()

    def _end_of_answer(self) -> int | None:
        """Where the first answer ends that is there as a whole."""
        end = 0
        while True:
            end = self._received.find(b"\n", end) + 1
            if not end:
                if len(self._received) > _MAX_ANSWER_BYTES:
                    raise ProtocolError(f"{self._endpoint}: an answer of more than {_MAX_ANSWER_BYTES} bytes")
                return None
            literal = _LITERAL.search(self._received, max(0, end - 16), end)
            if literal is None:
                return end
            end += int(literal[1])
            if end > _MAX_ANSWER_BYTES:
                raise ProtocolError(f"{self._endpoint}: an answer of more than {_MAX_ANSWER_BYTES} bytes")

    async def _receive(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._without_pause = 0
            await self._until_readable()
        except ssl.SSLWantWriteError:
            loop = asyncio.get_running_loop()
            await self._wait(loop.add_writer, loop.remove_writer)
        except OSError as error:
            raise self._ended(str(error)) from error
        else:
            if not data:
                raise self._ended("the server closed it")
            self._received += data
            self._without_pause += len(data)
            if self._without_pause > _FLOOD_BYTES:
                await asyncio.sleep(_FLOOD_PAUSE_SECONDS)
            elif self._without_pause > _TURN_BYTES:
                await asyncio.sleep(0)

    async def _until_readable(self) -> None:
        loop = asyncio.get_running_loop()
        await self._wait(loop.add_reader, loop.remove_reader)

    async def _wait(self, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        file, ready = self._socket.fileno(), asyncio.get_running_loop().create_future()
        add(file, _wake, ready)
        try:
            await ready
        finally:
            remove(file)

    def _ended(self, why: str) -> MailServerUnavailableError:
        return MailServerUnavailableError(f"the watched connection to {self._endpoint} ended: {why}")


def _wake(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
