"""Which accounts a watcher begins to watch, and which it ends."""

import asyncio

import pytest

from tasks.storage.accounts.watches import Watch
from tasks.watch import watcher
from tasks.watch.watcher import Watcher, _Found

LASTS, ENDS = (Watch("tenant", "user", name, "imap.example", "login") for name in ("lasts", "ends"))


def test_an_account_that_is_lost_and_claimed_again_in_one_round_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, environment: object
) -> None:
    had = [LASTS, ENDS]
    monkeypatch.setattr(watcher, "renew_watcher", lambda *_: had.remove(ENDS))
    monkeypatch.setattr(watcher, "claim_watches", lambda *_: had.append(ENDS))
    monkeypatch.setattr(watcher, "list_watches", lambda _: list(had))
    monkeypatch.setattr(watcher, "sum_of_watches", lambda _: str(had))
    monkeypatch.setattr(watcher, "well_watches", lambda *_: set())
    found = watcher._renewed("name", 1, str(had), [])
    assert found.watches == [LASTS, ENDS]
    assert found.kept == {LASTS.key}


def test_an_account_whose_watching_ended_or_that_was_lost_is_begun_anew_and_no_other(
    monkeypatch: pytest.MonkeyPatch, environment: object
) -> None:
    begun: list[str] = []

    class Account:
        is_failing = is_connected = was_tried = False

        def __init__(self, watch: Watch, _: object) -> None:
            self.watch = watch

        async def run(self) -> None:
            begun.append(self.watch.account_id)
            if self.watch == LASTS:
                await asyncio.Event().wait()

    # The accounts; that they are the same; and that one was lost and is claimed again.
    same, claimed_again = _Found("sum", None, None, set()), _Found("sum", [LASTS, ENDS], {ENDS.key}, set())
    found = iter([_Found("sum", [LASTS, ENDS], None, set()), same, same, claimed_again])
    monkeypatch.setattr(watcher, "_renewed", lambda *_: next(found))
    monkeypatch.setattr(watcher, "WatchedAccount", Account)
    monkeypatch.setattr(watcher, "end_watcher", lambda _: None)

    async def main() -> None:
        watching = Watcher()
        for _ in range(4):
            assert await watching._round(is_ready=True)
            await asyncio.sleep(0)  # those that were begun run
        await watching._end(list(watching._running.values()))
        await watching._give_up_all()

    asyncio.run(main())
    assert begun[:4] == ["lasts", "ends", "ends", "ends"]
    assert sorted(begun[4:]) == ["ends", "lasts"]
