"""How many wrong logins are looked at, by whom, and for how long the right one waits."""

import pytest

from tasks.monitoring.throttle import OF_ADDRESS, OF_ALL, Throttle


class Clock:
    """A clock that is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def guess(throttle: Throttle, address: str) -> bool:
    """One wrong login; whether it was looked at."""
    if throttle.wait(address):
        return False
    throttle.wrong(address)
    return True


def test_an_address_has_some_tries_and_then_one_a_second(clock: Clock) -> None:
    throttle = Throttle(clock)
    assert sum(guess(throttle, "192.0.2.1") for _ in range(100)) == OF_ADDRESS.at_once
    looked_at = 0
    for _ in range(600):  # a minute, ten a second
        clock.now += 0.1
        looked_at += guess(throttle, "192.0.2.1")
    assert 58 <= looked_at <= 61
    assert not throttle.wait("192.0.2.2")
    clock.now += OF_ADDRESS.interval
    assert not throttle.wait("192.0.2.1"), "the right login waits longer than that"


def test_many_addresses_have_few_tries_together(clock: Clock) -> None:
    throttle = Throttle(clock)
    throttle.right("198.51.100.7")
    looked_at = sum(guess(throttle, f"192.0.{number // 256}.{number % 256}") for number in range(10_000))
    assert looked_at == OF_ALL.at_once
    assert 0 < throttle.wait("203.0.113.1") <= OF_ALL.interval
    assert not throttle.wait("198.51.100.7"), "who logged in before is kept out by others"
    for number in range(2000):  # as quickly as may be
        clock.now += OF_ALL.interval * 1.01
        assert guess(throttle, f"10.1.{number // 256}.{number % 256}")
        assert not throttle.wait("198.51.100.7")
    assert len(throttle._empty_at) < 100


def test_addresses_of_one_ipv6_network_are_one(clock: Clock) -> None:
    throttle = Throttle(clock)
    assert sum(guess(throttle, f"2001:db8:1:2::{number:x}") for number in range(100)) == OF_ADDRESS.at_once
    assert not throttle.wait("2001:db8:1:3::1")
    assert guess(throttle, "a socket")


def test_ipv4_addresses_within_ipv6_are_not_one(clock: Clock) -> None:
    throttle = Throttle(clock)
    assert sum(guess(throttle, "::ffff:192.0.2.1") for _ in range(100)) == OF_ADDRESS.at_once
    assert throttle.wait("192.0.2.1")
    assert not throttle.wait("::ffff:192.0.2.2")


def test_only_the_last_addresses_are_known(clock: Clock) -> None:
    throttle = Throttle(clock)
    for number in range(2000):
        throttle.right(f"10.1.{number // 256}.{number % 256}")
        throttle.right("10.2.0.1")
    assert len(throttle._known) == 1000
    assert "10.2.0.1" in throttle._known
