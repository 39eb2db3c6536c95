"""An SMTP server that takes everything, in a process of its own.

Like any real one it has a message on its disk before it answers (RFC 5321 section 6.1), and it may be `--delay`
milliseconds away, there and back. It prints its port, and `STAT` answers how many messages it has and the seconds
from the first to the last.
"""

import argparse
import asyncio
import os
import tempfile
import time

_GREETING = b"220 sink ready\r\n"
_EHLO = b"250-sink\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250 AUTH PLAIN\r\n"
_ANSWERS = {b"AUTH": b"235 ok\r\n", b"DATA": b"354 go on\r\n", b"QUIT": b"221 bye\r\n"}


class Sink:
    """What arrived so far."""

    def __init__(self, delay: float, folder: str) -> None:
        self.delay, self.folder = delay, folder
        self.reset()

    def reset(self) -> None:
        self.messages, self.first, self.last = 0, 0.0, 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._answer(writer, _GREETING)
        try:
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"DATA":
                    await self._answer(writer, _ANSWERS[verb])
                    content = await reader.readuntil(b"\r\n.\r\n")
                    await asyncio.to_thread(self._keep, content)
                    await self._answer(writer, b"250 taken\r\n")
                elif verb == b"STAT":
                    writer.write(f"250 {self.messages} {self.last - self.first}\r\n".encode())
                elif verb == b"ZERO":
                    self.reset()
                    writer.write(b"250 ok\r\n")
                else:
                    # Commands of one write came together, and so do their answers.
                    answer = _EHLO if verb == b"EHLO" else _ANSWERS.get(verb, b"250 ok\r\n")
                    await self._answer(writer, answer, wait=verb not in (b"MAIL", b"RCPT") or not _has_more(reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, answer: bytes, *, wait: bool = True) -> None:
        if wait and self.delay:
            await asyncio.sleep(self.delay)
        writer.write(answer)

    def _keep(self, content: bytes) -> None:
        file, path = tempfile.mkstemp(dir=self.folder)
        os.write(file, content)
        os.fsync(file)
        os.close(file)
        os.unlink(path)  # noqa: PTH108 - this is timed
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.messages += 1


def _has_more(reader: asyncio.StreamReader) -> bool:
    return bool(reader._buffer)  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public says so


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--folder", required=True)
    options = parser.parse_args()
    sink = Sink(options.delay / 1000, options.folder)
    server = await asyncio.start_server(sink.serve, "127.0.0.1", 0, limit=100 * 1024 * 1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
