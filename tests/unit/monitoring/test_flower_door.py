"""Who is let in at Flower's door."""

from base64 import b64encode

from tasks.monitoring.flower_door import judge
from tasks.monitoring.throttle import OF_ALL, Throttle

RIGHT = ("ada:sample", "bob:other")


def field(login: str) -> str:
    return f"Basic {b64encode(login.encode()).decode()}"


def test_any_of_the_right_logins_is_let_in_and_without_one_nobody_is() -> None:
    throttle = Throttle()
    for login in RIGHT:
        assert judge(field(login), "192.0.2.1", RIGHT, throttle) == (0, 0)
    for wrong in (field("ada:other"), field("ada:"), field(""), "Basic !", "", None):
        assert judge(wrong, "192.0.2.1", RIGHT, throttle) == (401, 0)
    assert judge(field("ada:sample"), "192.0.2.1", (), throttle) == (401, 0)


def test_who_has_logged_in_is_not_kept_out_by_others() -> None:
    throttle = Throttle(lambda: 1000.0)
    assert judge(field(RIGHT[0]), "198.51.100.7", RIGHT, throttle) == (0, 0)
    for number in range(OF_ALL.at_once):
        assert judge(field("ada:guess"), f"192.0.2.{number}", RIGHT, throttle) == (401, 0)
    status, wait = judge(field(RIGHT[0]), "203.0.113.1", RIGHT, throttle)
    assert (status, 0 < wait <= OF_ALL.interval) == (429, True)
    assert judge(field(RIGHT[0]), "198.51.100.7", RIGHT, throttle) == (0, 0)
