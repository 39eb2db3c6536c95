"""What becomes of changes whose syncs cannot be queued."""

import asyncio
from collections.abc import Mapping

import pytest

from tasks.storage.accounts.dispatch import DueAccount
from tasks.storage.accounts.watches import ClaimedSync, Key
from tasks.watch import syncs
from tasks.watch.syncs import Syncs
from tasks.watch.threads import Threads

KEY = Key("tenant", "account")
CLAIMED = ClaimedSync(DueAccount(KEY.tenant_id, KEY.account_id, "user", "imap.example"), None)


def test_an_error_that_nobody_expected_ends_neither_the_queueing_nor_the_change(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([RuntimeError("nobody expected this")])
    published: list[list[tuple[str | None, ...]]] = []
    unclaimed: list[list[DueAccount]] = []

    def claim(_watcher: str, changed: Mapping[Key, str | None], _seconds: int) -> list[ClaimedSync]:
        assert set(changed) == {KEY}
        return [CLAIMED]

    def publish(_task: object, calls: list[tuple[str | None, ...]], **_: object) -> None:
        if failure := next(failures, None):
            raise failure
        published.append(calls)

    monkeypatch.setattr(syncs, "claim_watched_syncs", claim)
    monkeypatch.setattr(syncs, "publish_many", publish)
    monkeypatch.setattr(syncs, "unclaim_accounts", unclaimed.append)
    monkeypatch.setattr(syncs, "_MAX_LOOK_SECONDS", 0.01)

    async def main() -> None:
        threads = Threads(1)
        waiting = Syncs("watcher", threads)
        waiting.begin(KEY)
        waiting.note(KEY, "INBOX")
        running = asyncio.create_task(waiting.run())
        try:
            async with asyncio.timeout(60):
                while not waiting.queued:
                    if running.done():
                        running.result()
                    await asyncio.sleep(0.01)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            threads.close()

    asyncio.run(main())
    assert unclaimed == [[CLAIMED.account]]
    assert published == [[(KEY.account_id, KEY.tenant_id, "user", None)]]
    assert "nobody expected this" in caplog.text


def test_twenty_mails_one_after_another_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncs, "claim_watched_syncs", lambda *_: [CLAIMED])
    monkeypatch.setattr(syncs, "publish_many", lambda *_, **__: None)
    monkeypatch.setattr(syncs, "_DISTANCE_SECONDS", 3600.0)

    async def main() -> None:
        threads = Threads(1)
        waiting = Syncs("watcher", threads)
        waiting.begin(KEY)
        running = asyncio.create_task(waiting.run())
        try:
            async with asyncio.timeout(60):
                for number in range(1, 21):
                    waiting.note(KEY, "INBOX")
                    while waiting.queued < number:
                        await asyncio.sleep(0.005)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            threads.close()

    asyncio.run(main())
