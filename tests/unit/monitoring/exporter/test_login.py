"""Wrong logins do not keep the right one out of the exporter, and can be tried only a few at a time."""

import threading
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from tasks.monitoring.exporter import login
from tasks.monitoring.throttle import OF_ADDRESS
from tests.support.worker import wait_until

RIGHT, WRONG = (f"Basic {b64encode(text).decode()}" for text in (b"ada:sample", b"ada:guess"))


def test_the_right_login_is_let_in_beside_wrong_ones_from_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    door, may_go_on, waiting = login.Door(["ada:sample"], login.Turns(2, 7)), threading.Event(), []

    def sleep(seconds: float) -> None:
        waiting.append(seconds)
        assert may_go_on.wait(10)

    monkeypatch.setattr(login, "time", SimpleNamespace(sleep=sleep))
    for _ in range(OF_ADDRESS.at_once):
        assert door.judge(WRONG, "127.0.0.1")[0] == 401
    assert door.judge(RIGHT, "127.0.0.1") == (0, 0)
    with ThreadPoolExecutor(2) as pool:
        guesses = [pool.submit(door.judge, WRONG, "127.0.0.1") for _ in range(2)]
        wait_until(lambda: waiting == [7, 7], "wrong logins do not keep their turns")
        # No more is looked at meanwhile, or the right one could be found by trying all
        assert [door.judge(field, "127.0.0.1")[0] for field in (RIGHT, WRONG)] == [429, 429]
        may_go_on.set()
        assert [guess.result(10)[0] for guess in guesses] == [429, 429]
    assert door.judge(RIGHT, "127.0.0.1") == (0, 0)
