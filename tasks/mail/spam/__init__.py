"""Judges how much a message looks like spam, and why, by named rules on its stored fields.

The same fields always give the same verdict.

evidence.gather: a parsed message to what the rules look at  ->  rules/: findings  ->  weights.py: the score
"""

from operator import attrgetter

from tasks.mail.message import ParsedMessage
from tasks.mail.spam.evidence import Addressee, gather
from tasks.mail.spam.rules import CHECKS
from tasks.mail.spam.verdict import Indicator, Verdict, clamped
from tasks.mail.spam.weights import WEIGHTS

# Details are cut, because a sender's text may have any length.
_MAX_DETAIL_LENGTH = 200


def judge(message: ParsedMessage, recipient: Addressee) -> Verdict:
    """The verdict of the rules on a message to `recipient`."""
    evidence = gather(message, recipient)
    found: dict[str, str] = {}
    for check in CHECKS:
        for rule, detail in check(evidence):
            found.setdefault(rule, detail)
    return verdict_of(found)


def verdict_of(found: dict[str, str]) -> Verdict:
    """The verdict that the findings add up to; `found` has the detail of each by rule."""
    if not found:
        return NOTHING_FOUND
    indicators = [Indicator(rule, WEIGHTS[rule], detail[:_MAX_DETAIL_LENGTH]) for rule, detail in found.items()]
    indicators.sort(key=attrgetter("weight"), reverse=True)
    return Verdict(clamped(sum(indicator.weight for indicator in indicators)), tuple(indicators))


NOTHING_FOUND = Verdict(0.0, ())
