"""One watched account: connects, is told of changes, and connects again when the connection ends.

    connect     at the pace of its mail server; the login of any other connection
    compare     INBOX and, but for servers that tell of all folders, the other folders with what is stored
    be told     IDLE begun anew before the server or a router on the way gives up the silent connection
    lost        polled as often as before; the next connection after a wait that doubles

Neither a login that works nor a connection that lasts shortens the waits: they begin from the shortest again only
when a sync went well. An account that lost its connection is polled soon, so a quiet mailbox has one, too. An account
whose server cannot tell of changes is given up for a day, and polled.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tasks.engine.watching import NoIdleError, Opened, open_watched
from tasks.errors import EmailError, NotFoundError, StorageUnavailableError
from tasks.log_fields import logged_with
from tasks.mail.authenticate import learn_login
from tasks.mail.imap.watched import IdleRefusedError, WatchedMailbox
from tasks.mail.login import Login
from tasks.mail.providers import idle_seconds_of
from tasks.monitoring.totals import Totals
from tasks.secrecy.secrets import secrets_kept
from tasks.settings import get_settings
from tasks.storage.accounts.watches import Watch, give_up, note_lost, note_watched
from tasks.watch.pace import Pace
from tasks.watch.syncs import Syncs
from tasks.watch.threads import Threads

logger = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS, _MAX_WAIT_SECONDS = 2.0, 900.0
_MAX_DOUBLINGS = 10
# How soon is tried again to note the state of an account, while PostgreSQL is away.
_NOTE_AGAIN_SECONDS = 5.0
_GIVEN_UP_SECONDS = 24 * 3600
# A session that was logged in with a token is renewed so long before the token expires: a time of its own for each.
_TOKEN_AHEAD_SECONDS = (60, 280)
# Tokens that expire within seconds do not cause a login every second: each of such sessions lasts twice as long as
# the one before, up to this, although the server may end it earlier.
_SHORT_SESSION_SECONDS = 60.0


@dataclass(frozen=True)
class Means:
    """What all accounts of a watcher share."""

    watcher: str
    notes: Threads
    logins: Threads
    pace: Pace
    syncs: Syncs
    totals: Totals


class WatchedAccount:
    """Watches one account from `run` until it is cancelled."""

    def __init__(self, watch: Watch, means: Means) -> None:
        self.watch, self._means = watch, means
        self._failures = 0
        self._noting: asyncio.Task[None] | None = None
        # An account that is begun anew, with another login, is noted as watched over the connection before.
        self._may_be_noted = True
        self._may_notify = True
        self._short_sessions = 0
        self._is_logged_in = False
        self.is_connected = False
        self.was_tried = False

    @property
    def is_failing(self) -> bool:
        """Whether connections ended since a sync last went well."""
        return self._failures > 0

    def note_well(self) -> None:
        """Note that a sync of the account went well since its connection was made."""
        self._failures = 0

    async def run(self) -> None:
        """Watch the account. Returns only if it cannot be watched."""
        self._means.syncs.begin(self.watch.key)
        try:
            with logged_with(tenant=self.watch.tenant_id, account=self.watch.account_id):
                while await self._watch_until_lost():
                    await asyncio.sleep(self._wait())
        finally:
            self._means.syncs.forget(self.watch.key)
            if self._noting is not None:
                self._noting.cancel()

    async def _watch_until_lost(self) -> bool:
        """Hold one connection to its end. Returns whether there is to be another one."""
        try:
            await self._connected()
        except (NoIdleError, IdleRefusedError) as error:
            logger.info("the mailbox cannot be watched, and is polled: %s", error)
            await self._noted(give_up, str(error), _GIVEN_UP_SECONDS)
            return False
        except NotFoundError:
            return False
        except EmailError as error:
            logger.info("the mailbox is not watched until the next try: %s", error)
        except Exception:
            logger.exception("watching the mailbox failed, and is tried again")
        else:
            return True
        finally:
            self.is_connected, self.was_tried = False, True
        self._means.totals.add("watch", "lost" if self._is_logged_in else "login_failed")
        self._failures += 1
        if self._may_be_noted:
            if self._noting is not None:
                await self._noting
            await self._noted(note_lost)
            self._may_be_noted = False
        return True

    async def _connected(self) -> None:
        """Returns when the session is to be made anew, before its token expires."""
        watch, self._is_logged_in = self.watch, False
        async with self._means.pace.turn(watch.hostname):
            opened = await self._means.logins.open(
                lambda: open_watched(watch.tenant_id, watch.user_id, watch.account_id), _close
            )
        self._is_logged_in = True
        self._means.totals.add("watch", "login")
        mailbox: WatchedMailbox | None = None
        try:
            mailbox = WatchedMailbox(
                opened.wire,
                opened.endpoint,
                opened.capabilities,
                opened.known,
                opened.inbox,
                lambda path: self._means.syncs.note(watch.key, path),
            )
            with secrets_kept(get_settings().secrets):
                learn_login(opened.login, opened.endpoint)
                renewal = asyncio.timeout(self._seconds_with(opened.login))
                with suppress(TimeoutError):
                    async with renewal:
                        await self._told(mailbox)
        finally:
            if mailbox is not None:
                mailbox.close()
            else:
                _close(opened)

    async def _told(self, mailbox: WatchedMailbox) -> None:
        """Be told of changes until the connection ends."""
        settings = get_settings().watch
        silence = idle_seconds_of(self.watch.hostname, settings.idle_seconds)
        if self._may_notify:
            self._may_notify = False  # if the connection breaks over it, the next one does without
            await mailbox.ask_to_be_told()
            self._may_notify = True
        next_look = time.monotonic()
        is_first = True
        while True:
            if is_first or (not mailbox.tells_of_all_folders and time.monotonic() >= next_look):
                await mailbox.look_at_folders()
                next_look = time.monotonic() + settings.folders_seconds * random.uniform(0.8, 1.0)
            until_look = silence if mailbox.tells_of_all_folders else next_look - time.monotonic()
            begun = self._begun if is_first else _nothing
            is_first = False
            await mailbox.idle(min(silence, max(until_look, 0.0)), begun)

    def _begun(self) -> None:
        self.is_connected = self._may_be_noted = True
        self._noting = asyncio.create_task(self._noted(note_watched))

    async def _noted(self, note: Callable[..., None], *values: object) -> None:
        """Note the state of the account, by which it is polled; while PostgreSQL is away, as soon as it is back."""
        while True:
            try:
                await self._means.notes.run(note, self._means.watcher, self.watch.key, *values)
            except StorageUnavailableError as error:
                logger.warning("the state of the watched mailbox cannot be noted, which is tried again: %s", error)
                await asyncio.sleep(_NOTE_AGAIN_SECONDS)
            else:
                return

    def _seconds_with(self, login: Login) -> float | None:
        """How long the session with this login may last; None for any time."""
        if login.expires_at is None:
            return None
        left = login.expires_at - time.monotonic()
        wanted = max(left - random.uniform(*_TOKEN_AHEAD_SECONDS), left / 2)
        if wanted >= _SHORT_SESSION_SECONDS:
            self._short_sessions = 0
            return wanted
        least = min(2.0 ** min(self._short_sessions, _MAX_DOUBLINGS), _SHORT_SESSION_SECONDS)
        self._short_sessions += 1
        return max(wanted, least)

    def _wait(self) -> float:
        """How long to wait before the next connection: none after a session that was to be made anew."""
        if not self._failures:
            return 0.0
        doublings = min(self._failures - 1, _MAX_DOUBLINGS)
        longest: float = min(_FIRST_WAIT_SECONDS * 2**doublings, _MAX_WAIT_SECONDS)
        return longest * random.uniform(0.5, 1.0)


def _close(opened: Opened) -> None:
    opened.wire.close()


def _nothing() -> None:
    pass
