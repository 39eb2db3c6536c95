"""A process that parses messages for a sync of many, so that parsing
does not hold the interpreter lock of the process that receives.

The process runs this file with an environment of its own, so it inherits no secret and no connection. It ends when
its standard input ends, and also when its parent is killed. A message that ends the process, or keeps it busy for too
long, goes into quarantine like a message that cannot be parsed.
"""

import io
import logging
import os
import pickle
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import IO, Any, Final, Self

from tasks.engine.parsing import Destination, to_rows
from tasks.mail.message import FetchedMessage
from tasks.secrecy.visible import log_visibly
from tasks.storage.messages.arrivals import Arrival, Quarantined

logger = logging.getLogger(__name__)

# Resolved once, at import: a process that starts after a deploy must not run the files of the newer release.
_CODE: Final = Path(__file__).resolve().parents[2]
_PYTHON: Final = Path(sys.executable).parent.resolve() / Path(sys.executable).name
_COMMAND: Final = (_PYTHON, "-m", __name__)

# The size of the pipes. By default a pipe holds 64 kB, and each time it is full the two processes have to switch.
_PIPE_BYTES: Final = 1024 * 1024
_SIZE: Final = Struct("!Q")
_PR_SET_PDEATHSIG: Final = 1
_END_SECONDS: Final = 5
# How long to wait for an answer. Messages take a second or two at a time; a parser that takes this long will not end.
_PATIENCE_SECONDS: Final = 90.0
# How long the process may take to start.
_START_SECONDS: Final = 90.0


class _EndedError(Exception):
    """The process has ended in the middle of its work."""


class ParserProcess:
    """One parser process, used by one thread at a time. `has_failed` says that the process cannot be started."""

    _process: subprocess.Popen[bytes]

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._is_ready = self.has_failed = False

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.has_failed:
            self._end()

    @property
    def pid(self) -> int:
        """The id of the process; it changes when the process is started again."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether the process has started up. Always false if it cannot be started."""
        if not self._is_ready and not self.has_failed and self._has_answered(0):
            self._await_start()
        return self._is_ready

    def wait_until_ready(self) -> None:
        """Wait until the process has started up or failed."""
        if not self._is_ready and not self.has_failed:
            self._await_start()

    def to_rows(self, messages: list[FetchedMessage]) -> list[Arrival | Quarantined]:
        """The rows for the messages, as `parsing.to_rows` makes them. A message that ended the process, or kept it
        busy, is quarantined."""
        try:
            return self._ask(messages)
        except _EndedError:
            self._restart()
        return [self._alone(message) for message in messages]

    def _alone(self, message: FetchedMessage) -> Arrival | Quarantined:
        if self.has_failed:
            return to_rows(self._destination, message)
        try:
            return self._ask([message])[0]
        except _EndedError as ended:
            status, cause = self._restart(), ended.__cause__
            detail = str(cause) if isinstance(cause, TimeoutError) else f"it ended the parser: exit status {status}"
            return Quarantined(message.uid, "parser_failed", detail, message.size, message.raw)

    def _ask(self, messages: list[FetchedMessage]) -> list[Arrival | Quarantined]:
        try:
            _send(self._questions, messages)
            items: list[Arrival | Quarantined] = self._answer(_PATIENCE_SECONDS)
        except (EOFError, OSError) as error:
            raise _EndedError from error
        # The process does not send the bytes of a quarantined message back.
        return [item._replace(raw=message.raw or b"") for item, message in zip(items, messages, strict=True)]

    def _answer(self, seconds: float) -> Any:
        """The answer of the process. Raises EOFError where the process has ended, and TimeoutError."""
        if not self._has_answered(seconds):
            raise TimeoutError(f"the parser did not come to an end with it in {seconds:g} s")
        return _receive(self._answers)

    def _has_answered(self, seconds: float) -> bool:
        """Whether, within these seconds, the process answers or ends."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _start(self) -> None:
        self._is_ready = self.has_failed = False
        try:
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pipesize=_PIPE_BYTES,
                cwd=_CODE,
                env={"PYTHONUTF8": "1"},
            )
        except OSError:
            self._give_up()

    def _await_start(self) -> None:
        try:
            self._answer(_START_SECONDS)
            _send(self._questions, self._destination)
            self._is_ready = True
        except (EOFError, OSError):
            self._end()
            self._give_up()

    def _give_up(self) -> None:
        self.has_failed = True
        logger.error("a process to parse in does not start; this one parses itself")

    def _restart(self) -> int:
        status = self._end()
        logger.error("a process to parse in has ended: exit status %s", status)
        self._start()
        if not self.has_failed:
            self._await_start()
        return status

    def _end(self) -> int:
        """End the process. Returns its exit status."""
        with suppress(OSError):
            self._questions.close()
        try:
            return self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._answers.close()

    @property
    def _questions(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _answers(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout


def _send(pipe: IO[bytes], value: object) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    _write(pipe, _SIZE.pack(len(data)))
    _write(pipe, data)


def _write(pipe: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[pipe.write(rest) :]


def _receive(pipe: IO[bytes]) -> Any:
    """Read one object from the pipe. Raises EOFError where the other process has ended."""
    (size,) = _SIZE.unpack(_read(pipe, _SIZE.size))
    return pickle.loads(_read(pipe, size))  # noqa: S301 - from a process of our own


def _read(pipe: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = pipe.readinto(rest)  # type: ignore[attr-defined]  # of an unbuffered pipe
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


def main() -> None:
    """Parse the messages that arrive on standard input, and answer on standard output, until the input ends."""
    _end_with_parent()
    # A stop of the worker signals all its processes at once, but the parser is needed until the worker is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    questions = io.FileIO(sys.stdin.fileno(), "rb", closefd=False)
    answers = io.FileIO(os.dup(sys.stdout.fileno()), "wb")
    # Output that a library prints must not be read as an answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    log_visibly()
    with suppress(EOFError, BrokenPipeError):
        _send(answers, None)
        destination: Destination = _receive(questions)
        while True:
            rows = [to_rows(destination, message)._replace(raw=b"") for message in _receive(questions)]
            _send(answers, rows)


def _end_with_parent() -> None:
    """Have the kernel end this process with its parent: at once, also while it parses. The end of the input is only
    noticed between two messages."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
