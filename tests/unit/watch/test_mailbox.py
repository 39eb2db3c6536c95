"""What an account's state in PostgreSQL says, and how long is waited, when connections end or PostgreSQL is away."""

import asyncio
import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from tasks.errors import MailServerUnavailableError, StorageUnavailableError
from tasks.mail.login import Login
from tasks.monitoring.totals import Totals
from tasks.storage.accounts.watches import Watch
from tasks.watch import mailbox
from tasks.watch.mailbox import Means, WatchedAccount
from tasks.watch.pace import Pace
from tasks.watch.syncs import Syncs
from tasks.watch.threads import Threads

WATCH = Watch("tenant", "user", "account", "imap.example", "login")


def down(*_: object) -> NoReturn:
    raise MailServerUnavailableError("down")


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was noted in PostgreSQL, which is away the first time."""
    notes: list[str] = []
    failures = iter([StorageUnavailableError("away")])

    def lost(*_: object) -> None:
        if failure := next(failures, None):
            raise failure
        notes.append("lost")

    monkeypatch.setattr(mailbox, "note_lost", lost)
    monkeypatch.setattr(mailbox, "note_watched", lambda *_: notes.append("watched"))
    monkeypatch.setattr(mailbox, "_NOTE_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(mailbox, "_FIRST_WAIT_SECONDS", 0.01)
    return notes


def run(connected: Callable[[WatchedAccount], Any], until: Callable[[WatchedAccount], bool]) -> None:
    """Watch an account whose connections are `connected` until something is so."""

    class Account(WatchedAccount):
        async def _connected(self) -> None:
            await connected(self)

    async def main() -> None:
        notes, logins = Threads(1), Threads(1)
        account = Account(WATCH, Means("watcher", notes, logins, Pace(1000, 1), Syncs("watcher", notes), Totals()))
        running = asyncio.create_task(account.run())
        try:
            async with asyncio.timeout(60):
                while not until(account):
                    await asyncio.sleep(0.01)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            notes.close()
            logins.close()

    asyncio.run(main())


def test_a_lost_connection_is_noted_although_postgresql_was_away_when_it_ended(noted: list[str]) -> None:
    tries = 0

    async def connected(account: WatchedAccount) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            account._begun()
        down()

    run(connected, lambda _: tries > 2)
    assert noted == ["watched", "lost"]


def test_an_account_begun_anew_that_cannot_connect_is_noted_as_lost(noted: list[str]) -> None:
    async def connected(_: WatchedAccount) -> None:
        down()

    run(connected, lambda _: bool(noted))
    assert noted == ["lost"]


def test_the_waits_begin_anew_after_a_sync_that_went_well_and_after_no_connection(
    noted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(step=24 * 3600.0)  # each connection lasts for days
    monkeypatch.setattr(mailbox, "time", SimpleNamespace(monotonic=lambda: next(now)))
    failures: list[int] = []

    async def connected(account: WatchedAccount) -> None:
        failures.append(account._failures)
        account._begun()
        if len(failures) == 4:
            account.note_well()
        down()

    run(connected, lambda _: len(failures) > 5)
    assert failures[:6] == [0, 1, 2, 3, 1, 2]
    assert noted


def test_tokens_that_expire_at_once_do_not_cause_a_login_every_second() -> None:
    account = WatchedAccount(WATCH, None)  # type: ignore[arg-type]  # nothing is connected

    def seconds(lifetime: float) -> float:
        allowed = account._seconds_with(Login("ada", "token", "oauth2", time.monotonic() + lifetime))
        assert allowed is not None
        return allowed

    assert [seconds(1) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    # A session that may last as long as most do is renewed before its token expires, and ends the longer waits.
    assert 3300 <= seconds(3600) <= 3540
    assert seconds(1) == 1
