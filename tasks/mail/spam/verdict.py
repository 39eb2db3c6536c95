"""Findings of the spam check, and the verdict that they add up to."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A rule that a message meets. `detail` names what met it, for people."""

    rule: str
    detail: str


class Indicator(NamedTuple):
    """A finding with its part in the score. A negative weight speaks for the message."""

    rule: str
    weight: float
    detail: str


class Verdict(NamedTuple):
    """`score` is from 0 (nothing speaks against the message) to 1. `indicators` explain it, the heaviest first."""

    score: float
    indicators: tuple[Indicator, ...]


def clamped(score: float) -> float:
    """`score` limited to 0 to 1, and rounded to the digits that matter."""
    return round(min(max(score, 0.0), 1.0), 3)
