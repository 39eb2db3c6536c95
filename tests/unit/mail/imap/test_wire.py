"""Answers on a connection that does not block, in whatever pieces they come."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tasks.errors import MailServerUnavailableError, ProtocolError
from tasks.mail.connection import Endpoint
from tasks.mail.imap.wire import Wire
from tasks.mail.kinds import Encryption

ENDPOINT = Endpoint("mail.example", 143, Encryption.NONE, 5, True, ())


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: the server's and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with server, client:
        yield server, client


def run(
    pair: tuple[socket.socket, socket.socket],
    work: Callable[[Wire, socket.socket], Awaitable[None]],
    received: bytes = b"",
) -> None:
    async def main() -> None:
        wire = Wire(pair[1], received, ENDPOINT)
        try:
            await work(wire, pair[0])
        finally:
            wire.close()

    asyncio.run(main())


def test_an_answer_ends_with_its_line_and_its_literals(pair: tuple[socket.socket, socket.socket]) -> None:
    async def work(wire: Wire, server: socket.socket) -> None:
        assert await wire.answer(5) == b"* OK read before"
        server.sendall(b'TUS {4}\r\na\r\nb (MESSAGES 1) {1+}\r\n"')
        assert await wire.answer(0.05) is None  # the end of the line is missing
        server.sendall(b" end\r\n* 2 EXISTS\n")
        assert await wire.answer(5) == b'* STATUS {4}\r\na\r\nb (MESSAGES 1) {1+}\r\n" end'
        assert await wire.answer(5) == b"* 2 EXISTS"
        await wire.send(b"DONE")
        assert server.recv(100) == b"DONE\r\n"

    run(pair, work, b"* OK read before\r\n* STA")


@pytest.mark.parametrize("sent", [b"x" * 70_000, b"* LIST {999999999}\r\n"])
def test_an_answer_without_an_end_is_not_kept(pair: tuple[socket.socket, socket.socket], sent: bytes) -> None:
    async def work(wire: Wire, server: socket.socket) -> None:
        await asyncio.get_running_loop().run_in_executor(None, server.sendall, sent)
        with pytest.raises(ProtocolError, match="an answer of more than"):
            await wire.answer(5)

    run(pair, work)


def test_a_connection_that_ends_is_an_error_that_says_where(pair: tuple[socket.socket, socket.socket]) -> None:
    async def work(wire: Wire, server: socket.socket) -> None:
        server.shutdown(socket.SHUT_RDWR)
        with pytest.raises(MailServerUnavailableError, match=r"mail\.example:143 ended: the server closed it"):
            await wire.answer(5)

    run(pair, work)


def test_a_flood_leaves_the_others_their_turn(pair: tuple[socket.socket, socket.socket]) -> None:
    async def work(wire: Wire, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        sending = loop.run_in_executor(None, server.sendall, b"* OK still here\r\n" * 16_200)
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        others = asyncio.create_task(take_turns())
        for _ in range(16_200):
            assert await wire.answer(30) == b"* OK still here"
        others.cancel()
        await sending
        assert turns > 16

    run(pair, work)
