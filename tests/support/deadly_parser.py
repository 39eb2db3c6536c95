"""A parser that a message of the subject "deadly" kills, as a crash of a library would.

As a program it is what parses for a worker.
"""

import os
import signal

from tasks.engine import parser_process, parsing
from tasks.mail.message import ParsedMessage
from tasks.mail.parse.message import parse


def _parse(raw: bytes) -> ParsedMessage:
    if b"Subject: deadly" in raw:
        os.kill(os.getpid(), signal.SIGKILL)
    return parse(raw)


parsing.parse = _parse

if __name__ == "__main__":
    parser_process.main()
