"""What is due in an event loop leaves time for its messages, however long it takes."""

import pytest

from tasks.runtime.broker import seldom
from tasks.runtime.broker.seldom import Seldom


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("takes", "at_most"), [(0.002, 60), (1, 3), (3, 1)])
def test_what_takes_long_is_called_seldom(
    takes: float, at_most: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(seldom, "monotonic", lambda: now)
    calls = []

    def call() -> None:
        nonlocal now
        now += takes
        calls.append(now)
        if fails:
            raise OSError

    called = Seldom(call)
    while now < 1060:  # a minute in which it is due each second
        try:
            called()
        except OSError:
            assert fails
        now += 1
    assert at_most - 2 <= len(calls) <= at_most
