"""The queues, and in which order one worker takes from them.

A queue with a higher weight (tasks/registry.py) is served more: where several queues have messages, each gets its
share of the turns, sync 10 of 36 and spam 3 of 36, and the highest weight comes first. So a flood in one queue never
starves another, as strict priorities would, and mail is not held up by spam checks, as it would be if all queues took
turns alike. Only a queue of weight 0 (reading again) waits until all others are empty.

Each worker has a queue of its own as well, before all others, for canaries that are meant for this worker
(tasks/monitoring/canary.py).
"""

from collections.abc import Iterable

from tasks.registry import QUEUES


def wake_key(queue: str) -> str:
    """The list of the tokens for which the idle workers of a queue wait (tasks/runtime/broker/transport.py)."""
    return f"metabuilder:wake:{queue}"


_OWN = "metabuilder:canary:"


def own_queue(node: str) -> str:
    """The queue that only the worker `node` consumes."""
    return f"{_OWN}{node}"


def is_own(queue: str) -> bool:
    """Whether the queue is the own queue of some worker."""
    return queue.startswith(_OWN)


def is_ours(queue: str) -> bool:
    """Whether task messages lie on the queue; other queues are for the answers to remote control."""
    return queue in QUEUES or is_own(queue)


# As kombu's Redis transport names the lists of a queue, one for each priority.
_PRIORITIES, _SEPARATOR = (0, 3, 6, 9), "\x06\x16"


def lists(queue: str) -> list[str]:
    """The lists of the messages of a queue, one for each priority, in the order in which workers take from them."""
    return [f"{queue}{_SEPARATOR}{priority}" if priority else queue for priority in _PRIORITIES]


_OTHER_WEIGHT = 1  # of queues that are not in the registry, other than workers' own


class WeightedCycle:
    """The order of queues for kombu's Redis transport (its `queue_order_strategy`): smooth weighted round robin.

    Each queue has a credit. When a message is taken from a queue, that queue and
    all queues after it in the order gain their weight, and the queue pays the
    sum of these weights. The queues before it were empty; their credit stays.
    """

    def __init__(self) -> None:
        self._credit: dict[str, int] = {}

    def update(self, queues: Iterable[str]) -> None:
        """Take from these queues from now on."""
        self._credit = {queue: self._credit.get(queue, _weight(queue)) for queue in queues}

    def consume(self, n: int) -> list[str]:
        """The first `n` queues in the order in which to look for a message."""
        return sorted(self._credit, key=self._rank, reverse=True)[:n]

    def rotate(self, last_used: str) -> str:
        """Note that a message was taken from this queue."""
        order = self.consume(len(self._credit))
        if last_used in order and not is_own(last_used):
            waiting = order[order.index(last_used) :]
            for queue in waiting:
                self._credit[queue] += _weight(queue)
            self._credit[last_used] -= sum(map(_weight, waiting))
        return last_used

    def _rank(self, queue: str) -> tuple[bool, bool, int]:
        return is_own(queue), not is_served_last(queue), self._credit[queue]


def is_served_last(queue: str) -> bool:
    """Whether messages of the queue are taken only where no other queue has any."""
    return _weight(queue) == 0


def _weight(queue: str) -> int:
    return QUEUES.get(queue, _OTHER_WEIGHT)
