"""When a worker says that it is alive, and when it has itself restarted."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.monitoring import watchdog
from tasks.monitoring.watchdog import Watchdog
from tasks.runtime import systemd
from tasks.runtime.pool import _Pool

SECONDS = 80.0
BETWEEN = SECONDS / 8  # two looks


class Pool:
    """A pool in which processes begin what they are given, or do not, or are at work."""

    def __init__(self, *, begins: bool, is_busy: bool = False) -> None:
        self.begins, self.is_busy, self.probes = begins, is_busy, 0

    def is_at_work(self, grace: float) -> bool:
        return self.is_busy

    def probe(self, begun: Callable[[], object]) -> None:
        self.probes += 1
        if self.begins:
            begun()


class Loop:
    """A worker's event loop, and the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
        self.now, self.said = 1000.0, list[str]()
        monkeypatch.setattr(watchdog, "monotonic", lambda: self.now)
        monkeypatch.setattr(systemd, "notify", lambda *words: self.said.extend(words))
        monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
        monkeypatch.setenv("WATCHDOG_USEC", str(int(SECONDS * 1_000_000)))
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        self.step, self._worker = Watchdog(None), SimpleNamespace(pool=pool)
        self.connect()

    def connect(self) -> None:
        self.step.register_with_event_loop(self._worker, self)

    def call_repeatedly(self, seconds: float, look: Callable[[], None]) -> None:
        assert seconds == BETWEEN
        self._look = look

    def turn(self, looks: int, between: float = BETWEEN) -> set[str]:
        """What is said during so many looks."""
        self.said.clear()
        for _ in range(looks):
            self.now += between
            self._look()
        return set(self.said)


ALIVE, STUCK = "WATCHDOG=1", "WATCHDOG=trigger"


def test_an_idle_pool_is_alive_and_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, pool := Pool(begins=True))
    assert loop.turn(40) == {ALIVE}
    assert 10 <= pool.probes <= 20


def test_a_pool_at_work_is_alive_and_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, pool := Pool(begins=False, is_busy=True))
    assert loop.turn(40) == {ALIVE}
    assert not pool.probes


def test_a_pool_that_begins_nothing_is_restarted_in_the_watchdogs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, pool := Pool(begins=False))
    assert loop.turn(7) == {ALIVE}
    assert pool.probes > 1  # of several processes, others may begin it
    assert loop.turn(1) == {STUCK}


def test_time_without_an_event_loop_says_nothing_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the broker is away, and while all processes are stopped."""
    loop = Loop(monkeypatch, Pool(begins=False))
    for _ in range(5):
        assert loop.turn(2) == {ALIVE}
        loop.now += 10 * SECONDS
        loop.connect()
    assert loop.turn(1, between=10 * SECONDS) == {ALIVE}


@pytest.mark.parametrize(("microseconds", "pid"), [(None, None), ("", None), ("60000000", "1")])
def test_without_a_watchdog_nothing_is_done(
    microseconds: str | None, pid: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WATCHDOG_PID is that of the leading process, and its children inherit it."""
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(systemd, "notify", pytest.fail)
    assert not Watchdog(None).include_if(None)
    systemd.notify_alive()
    systemd.notify_stuck()


@pytest.mark.parametrize(
    ("begun_before", "is_at_work"),
    [
        (0, True),
        (299, True),
        (305, True),  # about to be killed
        (311, False),  # should have been killed, and was not
        (None, False),  # was given to a process that has not begun it
    ],
)
def test_a_process_is_at_work_within_the_time_limit_of_its_task(begun_before: float | None, is_at_work: bool) -> None:
    begun = None if begun_before is None else time.monotonic() - begun_before
    pool: Any = _Pool.__new__(_Pool)
    pool._cache = {1: SimpleNamespace(_time_accepted=begun, _timeout=300, _accepted=True)}
    assert pool.is_at_work(10) is is_at_work
