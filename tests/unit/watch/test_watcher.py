"""Which accounts a watcher begins to watch, and which it ends."""

import asyncio

import pytest

from tasks.storage.accounts.watches import Watch
from tasks.watch import watcher
from tasks.watch.watcher import Watcher, _Found

LASTS, ENDS = (Watch("tenant", "user", name, "imap.example", "login") for name in ("lasts", "ends"))


def test_an_account_whose_watching_ended_is_begun_anew_and_no_other(
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

    # The accounts, and then that they are the same.
    found = iter([_Found("sum", [LASTS, ENDS], set()), *[_Found("sum", None, set())] * 2])
    monkeypatch.setattr(watcher, "_renewed", lambda *_: next(found))
    monkeypatch.setattr(watcher, "WatchedAccount", Account)
    monkeypatch.setattr(watcher, "end_watcher", lambda _: None)

    async def main() -> None:
        watching = Watcher()
        for _ in range(3):
            assert await watching._round(is_ready=True)
            await asyncio.sleep(0)  # those that were begun run
        await watching._end(list(watching._running.values()))
        await watching._give_up_all()

    asyncio.run(main())
    assert begun == ["lasts", "ends", "ends", "ends"]
