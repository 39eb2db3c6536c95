"""Free ports, also when the preferred one is taken."""

import socket
from collections.abc import Iterator

import pytest

from native.ports import answers, free_port, is_free


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_in_use_is_not_free(taken: int) -> None:
    assert not is_free(taken)
    assert answers(taken)


def test_the_preferred_port_is_taken_if_it_is_free(taken: int) -> None:
    free = free_port()
    assert free_port(free) == free
    assert free_port(taken) != taken


def test_two_programs_do_not_get_the_same_port() -> None:
    free = free_port()
    assert free_port(free, taken={free}) != free


def test_chosen_ports_are_below_those_of_outgoing_connections() -> None:
    assert all(15_000 <= free_port() < 32_000 for _ in range(20))
