"""The order in which one worker takes from its queues."""

from collections import Counter

from tasks.registry import QUEUES
from tasks.runtime.broker.queues import WeightedCycle, own_queue


def take(cycle: WeightedCycle, waiting: Counter[str], count: int) -> list[str]:
    """Take messages as BRPOP does: from the first queue in order that has any."""
    taken = []
    for _ in range(count):
        queue = next(queue for queue in cycle.consume(len(QUEUES) + 1) if waiting[queue])
        waiting[queue] -= 1
        taken.append(cycle.rotate(queue))
    return taken


def full(*queues: str) -> Counter[str]:
    return Counter(dict.fromkeys(queues, 10_000))


def cycle(*queues: str) -> WeightedCycle:
    found = WeightedCycle()
    found.update(queues)
    return found


def test_each_gets_its_share() -> None:
    taken = take(cycle(*QUEUES), full(*QUEUES), sum(QUEUES.values()) * 10)
    assert Counter(taken) == Counter({queue: weight * 10 for queue, weight in QUEUES.items()})


def test_one_without_weight_is_served_only_where_all_others_are_empty() -> None:
    order, waiting = cycle(*QUEUES), full("reread")
    # Also where the others are in debt for turns that they had.
    waiting.update(dict.fromkeys(("spam", "delete", "elsewhere"), 100))
    order.update([*QUEUES, "elsewhere"])
    taken = take(order, waiting, 400)
    assert taken.index("reread") == 300
    assert set(taken[300:]) == {"reread"}
    waiting["send"] += 1
    assert take(order, waiting, 2) == ["send", "reread"]


def test_the_highest_is_first_and_none_waits_for_long() -> None:
    taken = take(cycle("spam", "delete", "send", "sync"), full("spam", "delete", "send", "sync"), 52)
    assert taken[:4] == ["sync", "send", "delete", "sync"]
    assert taken.index("spam") < 10
    assert max(len(run) for run in "".join("s" if q == "spam" else "." for q in taken).split("s")) < 12


def test_an_empty_queue_costs_nobody_a_turn_and_saves_up_little() -> None:
    order = cycle("spam", "sync")
    assert take(order, full("spam"), 1000) == ["spam"] * 1000
    # The flood that comes now is not served alone to make up for it.
    assert "spam" in take(order, full("spam", "sync"), 8)


def test_a_worker_s_own_queue_comes_before_all_others_and_costs_them_no_turn() -> None:
    own = own_queue("worker@mail1")
    order, other = cycle(*QUEUES, own), cycle(*QUEUES)
    assert take(order, full(*QUEUES, own), 100) == [own] * 100
    assert take(order, full(*QUEUES), 100) == take(other, full(*QUEUES), 100)


def test_queues_come_and_go() -> None:
    order = cycle("sync", "send")
    take(order, full("sync", "send"), 5)
    order.update(["spam", "elsewhere"])
    assert set(order.consume(5)) == {"spam", "elsewhere"}
    assert order.rotate("sync") == "sync"
