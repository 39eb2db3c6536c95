"""What is found in a message, and what it comes to."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A rule that a message meets; `detail` says by what, for people."""

    rule: str
    detail: str


class Indicator(NamedTuple):
    """A finding with its part in the score. A negative weight speaks for the message."""

    rule: str
    weight: float
    detail: str


class Verdict(NamedTuple):
    """`score` is from 0 (nothing speaks against it) to 1, and explained by `indicators`, the heaviest first."""

    score: float
    indicators: tuple[Indicator, ...]


def clamped(score: float) -> float:
    """`score` held between 0 and 1, with as many digits as mean something."""
    return round(min(max(score, 0.0), 1.0), 3)
