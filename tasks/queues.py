"""The queues, and in which order one worker takes from them.

A higher number is served more: where several queues have messages, each gets its share of the turns, sync 10 of 36
and spam 3 of 36, and the highest comes first. So a flood in one never starves another, as strict priorities would,
and mail is not held up by spam checks, as it would be if all took turns alike.
"""

from collections.abc import Iterable

# The name of each queue and its weight.
QUEUES = {"sync": 10, "periodic": 10, "send": 8, "delete": 5, "spam": 3}

_OTHER_WEIGHT = 1  # of queues that somebody else made


class WeightedCycle:
    """The order of queues for kombu's Redis transport (its `queue_order_strategy`): smooth weighted round robin.

    Each queue gains its weight with every message taken from any, and the one that was taken from pays for all.
    """

    def __init__(self) -> None:
        self._credit: dict[str, int] = {}

    def update(self, queues: Iterable[str]) -> None:
        """These are the queues to take from, by now."""
        self._credit = {queue: self._credit.get(queue, _weight(queue)) for queue in queues}

    def consume(self, n: int) -> list[str]:
        """The first `n` queues in the order in which to look for a message."""
        return sorted(self._credit, key=lambda queue: self._credit[queue], reverse=True)[:n]

    def rotate(self, last_used: str) -> str:
        """A message was taken from this queue."""
        round_ = sum(map(_weight, self._credit))
        if last_used in self._credit:
            self._credit[last_used] -= round_
        # Neither a queue that was empty for long nor one that was alone is owed, or owes, more than a round.
        self._credit = {
            queue: max(min(credit + _weight(queue), round_), -round_) for queue, credit in self._credit.items()
        }
        return last_used


def _weight(queue: str) -> int:
    return QUEUES.get(queue, _OTHER_WEIGHT)
