"""An application on a host that queues tasks; outside of the hosts, its ledger and its mail server.

A power cut takes the application away in the middle of a call. The ledger has the calls that were begun, and those of
which the application knew that they were queued; the mail server has the mail that it took.
"""

import socket
import time
from collections.abc import Collection
from typing import Any

from tests.support.smtp_server import SmtpServer, Taken
from tests.support.tcp_server import TcpServer

_EVERYWHERE = "0.0.0.0"
# So many tasks wait, whatever the workers do: fewer would not be a load, more would take long to do.
_WAITING = 50

# Of so many calls of each kind the load of an application consists that calls all kinds by turns.
KINDS = {"send": 7, "sync": 1, "spam": 1, "delete": 1}

# A name that is an account stands for a sync of it; any other ends with a number, and may have a kind before it.
_APPLICATION = """
import itertools, socket, time
from redis.exceptions import RedisError
from tasks.celery_app import celery_app, check_spam, delete_emails, send_email, sync_emails
from tasks.errors import BrokerUnavailableError
from tasks.runtime.broker.transport import broker_client
from tasks.storage.accounts.rows import find_account
who, accounts, kinds, kept, gone = {who!r}, {accounts!r}, {kinds!r}, {kept!r}, {gone!r}
ids = [find_account(who[0], account).id for account in accounts]
sends = itertools.chain(accounts, (f'{prefix}-{{n}}' for n in itertools.count()))
by_turns = (f'{prefix}-{{kinds[n % len(kinds)]}}-{{n}}' for n in itertools.count())
names = {names!r} or (by_turns if kept else sends)
ledger = socket.create_connection({ledger!r})
def note(*words):
    ledger.sendall(' '.join(words).encode() + b'\\n')
    assert ledger.recv(1)
def patiently(ask):
    while True:
        try:
            return ask()
        except (RedisError, BrokerUnavailableError) as error:
            if 'password' in str(error):
                raise
            time.sleep(0.05)
def call(name):
    if name in accounts:
        return sync_emails.delay(ids[accounts.index(name)], *who)
    *_, kind, number = name.split('-')
    n = int(number)
    account = ids[n % len(ids)]
    if kind == 'delete' and gone:
        return delete_emails.delay([gone.pop()], *who)
    if kind == 'spam':
        return check_spam.delay(kept[n % len(kept)], *who)
    if kind in ('delete', 'sync'):
        return sync_emails.delay(account, *who)
    return send_email.delay(account, *who, 'bob@example.org', subject=name, idempotency_key=name)
with broker_client(celery_app) as broker:
    for name in names:
        while patiently(lambda: broker.llen('sync') + broker.llen('send')) >= {waiting}:
            time.sleep(0.05)
        note('begun', name)
        note('queued', name, patiently(lambda: call(name)).id)
        time.sleep({pause})
"""


class OutsideMailServer(SmtpServer):
    """An SMTP server that hosts reach, too."""

    host = _EVERYWHERE

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.times: list[float] = []  # when it took each mail

    def record(self, taken: Taken) -> None:
        """Keep a mail, and the time."""
        super().record(taken)
        self.times.append(time.time())


class Ledger(TcpServer):
    """When each call was about to be made, and when the application knew that its task was queued."""

    host = _EVERYWHERE

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[str, float] = {}
        self.queued: dict[str, float] = {}
        self.task_ids: dict[str, str] = {}  # by the names of the calls that are queued
        self.is_closed = False  # then no further call is made

    def serve(self, connection: socket.socket, _: int) -> None:
        connection.settimeout(60)  # a host that goes without a word does not end it
        try:
            for line in connection.makefile("rb"):
                verb, name, *task_id = line.decode().split()
                if verb == "begun" and self.is_closed:
                    return
                self.task_ids.update(dict.fromkeys([name] if task_id else [], "".join(task_id)))
                (self.begun if verb == "begun" else self.queued)[name] = time.time()
                connection.sendall(b".")
        except OSError:
            return
        finally:
            connection.close()

    def application(
        self,
        address: str,
        who: tuple[str, str],
        accounts: list[str],
        prefix: str,
        names: Collection[str] = (),
        messages: tuple[Collection[str], Collection[str]] = ((), ()),
        pause: float = 0,
    ) -> str:
        """The code of an application that reaches the ledger at `address`.

        It makes the calls with these names. Without names it syncs each account once, and then sends from them by
        turns (the names are `prefix` and a number) until its host ends, Redis refuses its password or the ledger is
        closed. With the ids of messages that are to be kept, and of others, it makes calls of all kinds by turns
        instead, and deletes the others. A call that Redis does not take is made again. After each call it pauses for
        so many seconds.
        """
        kept, gone = messages
        return _APPLICATION.format(
            ledger=(address, self.port),
            who=who,
            accounts=accounts,
            prefix=prefix,
            names=list(names),
            kinds=[kind for kind, count in KINDS.items() for _ in range(count)],
            kept=list(kept),
            gone=list(gone),
            waiting=_WAITING,
            pause=pause,
        )


def own_address(towards: str) -> str:
    """The address of this machine by which the host at an address reaches it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((towards, 9))
        return str(probe.getsockname()[0])
