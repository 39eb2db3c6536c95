"""Connections kept for the next use."""

import os
import time

from tasks.mail.pool import Pool


class Connection:
    def __init__(self, name: str = "") -> None:
        self.name, self.is_stale, self.log = name, False, ""

    def close(self) -> None:
        self.log += "closed "

    def abandon(self) -> None:
        self.log += "abandoned "


def test_who_takes_one_has_it_alone() -> None:
    pool: Pool[Connection] = Pool(most=2, idle_seconds=60)
    connection = Connection()
    pool.give("a", connection)

    assert pool.take("b") is None
    assert pool.take("a") is connection
    assert pool.take("a") is None


def test_one_that_the_server_closed_is_not_given_out() -> None:
    pool: Pool[Connection] = Pool(most=3, idle_seconds=60)
    good, stale = Connection(), Connection()
    pool.give("a", good)
    pool.give("a", stale)
    stale.is_stale = True

    assert pool.take("a") is good
    assert stale.log == "abandoned "


def test_the_one_that_waits_longest_makes_room() -> None:
    pool: Pool[Connection] = Pool(most=2, idle_seconds=60)
    connections = [Connection() for _ in range(3)]
    for number, connection in enumerate(connections):
        pool.give(number, connection)

    assert [connection.log for connection in connections] == ["closed ", "", ""]
    assert pool.take(0) is None


def test_idle_ones_are_closed_though_nobody_asks() -> None:
    pool: Pool[Connection] = Pool(most=2, idle_seconds=0.05)
    first, second = Connection(), Connection()
    pool.give("a", first)
    time.sleep(0.03)
    pool.give("b", second)
    deadline = time.monotonic() + 5
    while not (first.log and second.log) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert (first.log, second.log) == ("closed ", "closed ")


def test_a_forked_child_neither_uses_nor_closes_what_is_its_parents() -> None:
    pool: Pool[Connection] = Pool(most=2, idle_seconds=60)
    connection = Connection()
    pool.give("a", connection)

    child = os.fork()
    if not child:
        found = pool.take("a")
        pool.close()
        os._exit(0 if found is None and connection.log == "" else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert pool.take("a") is connection
