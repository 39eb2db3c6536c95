"""Flags that cannot be read: the error has the words of somebody who would forge a line of a log."""

from collections.abc import Iterator

WORDS = "\x1b[2J\x9b\u202e\n[2026-11-27 01:02:03,004: INFO/MainProcess] Task sync_emails succeeded"


class ForgingFlags(tuple[str, ...]):
    """Raises when it is looked at."""

    def __reduce__(self) -> tuple[object, ...]:
        return ForgingFlags, ()

    def __iter__(self) -> Iterator[str]:
        raise ValueError(WORDS)
