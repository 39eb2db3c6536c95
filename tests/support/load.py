"""An application that has more to do than a site can, and what became of each of its calls."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from tests.support.ledger import KINDS, Ledger, OutsideMailServer, own_address
from tests.support.runs import End, ends
from tests.support.site import TENANT, USER, Site, deliver, register, run_code, sql, start_code

_MAILBOXES, _MESSAGES = 10, 100
# With so many tasks queued and so many mails sent, others wait, and some are at work.
_ENOUGH_QUEUED, _ENOUGH_SENT = 80, 10
_PAUSE = 0.2  # of a load that a site has no trouble with
_SECONDS = 300
_LEASE_SECONDS = 60


class Load:
    """Syncs of some mailboxes, sends from their accounts, and what an application does with their messages.

    The name of a first sync is that of its account; the name of a send is its idempotency key and the subject of its
    mail.
    """

    def __init__(self, site: Site, ledger: Ledger, mail: OutsideMailServer) -> None:
        self.site, self.ledger, self.mail = site, ledger, mail
        self.caller = site.first("celery_workers")  # the host of the application
        self.address = own_address(site.address(site.group("celery_workers")[0]))
        self._stamp = f"load{time.time_ns() % 10**9}"
        self._began = 0.0  # when the load got under way
        self._boxes = [f"{self._stamp}-box{n}" for n in range(_MAILBOXES)]
        deliver(site, self._boxes, _MESSAGES)
        register(site, self._boxes, smtp_hostname=self.address, smtp_port=mail.port, smtp_encryption="none")

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """For a block, have an application on a worker's host make some calls a second, of all kinds, which the
        workers keep up with. Afterwards each call is done, and done once; `latest` says how late."""
        self.call(self._boxes)
        assert eventually(lambda: self._synced() == set(self._boxes)), "the mailboxes were not synced"
        self._began = time.time()
        self.call(messages=(self._messages(self._boxes[1::2]), self._messages(self._boxes[::2])), pause=_PAUSE)
        a_round = len(self._boxes) + sum(KINDS.values())
        assert eventually(lambda: len(self.ledger.queued) >= a_round), f"{len(self.ledger.queued)} calls were made"
        yield
        self.ledger.is_closed = True
        assert eventually(lambda: self.ledger.begun.keys() == self.ledger.queued.keys())
        sends = [name for name in self.ledger.queued if "-send-" in name]
        assert self.not_done(sends) == {}
        self.check_mails()
        eventually(lambda: all(self._ends().values()))
        not_once = {
            name: found for name, found in self._ends().items() if [end.how for end in found] != ["succeeded"]
        }
        assert not_once == {}

    def latest(self) -> dict[str, float]:
        """Seconds from the moment in which the application knew that a task was queued until the task was done, at
        most, by the kind of the task. Only what was queued while the load was under way counts."""
        late = defaultdict(list)
        for name, [end] in self._ends().items():
            late[name.split("-")[1]].append(end.at - self.ledger.queued[name])
        return {kind: round(max(late[kind]), 1) for kind in KINDS}

    def _ends(self) -> dict[str, list[End]]:
        """How each call ended that was queued while the load was under way, by its name."""
        found = ends(self.site, self._began)
        names = self.ledger.queued.keys() - set(self._boxes)
        return {name: found.get(self.ledger.task_ids[name], []) for name in names}

    def _messages(self, boxes: Collection[str]) -> list[str]:
        """The ids of the messages in the INBOX of these mailboxes."""
        query = (
            "SELECT m.id FROM email_message m JOIN email_folder f ON f.tenant_id = m.tenant_id "
            "AND f.id = m.folder_id JOIN email_client c ON c.tenant_id = f.tenant_id AND c.id = f.email_client_id "
            f"WHERE c.account_name IN ({', '.join(map(repr, boxes))}) AND f.path = 'INBOX' ORDER BY m.id"
        )
        return sql(self.site, query).split()

    def start(self) -> None:
        """Have an application on a worker's host call until something ends it; return when it is under way."""
        self.call()
        enough = eventually(lambda: len(self.ledger.queued) >= _ENOUGH_QUEUED and len(self.mails()) >= _ENOUGH_SENT)
        assert enough, f"only {len(self.ledger.queued)} calls were made, and {len(self.mails())} mails sent"

    def call(self, names: Collection[str] = (), **options: Any) -> None:
        """Have an application on a worker's host make these calls, one after the other; without names as `start`, or
        as the options of `Ledger.application` say."""
        code = self.ledger.application(self.address, (TENANT, USER), self._boxes, self._stamp, names, **options)
        start_code(self.caller, code)

    def not_done(self, names: Iterable[str]) -> dict[str, str]:
        """Those of the calls that are neither done nor left to a person, after a while, and what the outbox has."""
        names, left = set(names), set[str]()

        def are_done() -> bool:
            left.clear()
            left.update(names - {key for key, state in self.states().items() if state in ("sent", "unknown")})
            left.difference_update(self._synced())
            return not left

        eventually(are_done)
        return {name: self._row(name) for name in left}

    def let_pass_what_waits_for_dead_workers(self, at: float) -> int:
        """End the visibility timeout of the tasks that were in hand at this time (how many), the leases of runs, and
        the wait for answers of mail servers."""
        in_hand = run_code(
            self.caller,
            "from tasks.celery_app import celery_app\nfrom tasks.runtime.broker.transport import broker_client\n"
            "with broker_client(celery_app) as client:\n"
            f"    tags = client.zrangebyscore('unacked_index', 0, {at})\n"
            "    for tag in tags: client.zincrby('unacked_index', -3600, tag)\n"
            "    print(len(tags))\n",
        )
        sql(
            self.site,
            "UPDATE outbox_message SET data_at = data_at - interval '1 h', claimed_at = claimed_at - interval '1 h' "
            f"WHERE state = 'sending' AND claimed_at < to_timestamp({at}); "
            f"UPDATE email_client SET lease_until = now() WHERE lease_until < to_timestamp({at + _LEASE_SECONDS})",
        )
        return int(in_hand)

    def _row(self, name: str) -> str:
        columns = "state, attempts, claimed_at, data_at, next_try_at, now(), last_error_code, last_error"
        return sql(self.site, f"SELECT {columns} FROM outbox_message WHERE key = 'key:{name}'").strip()

    def lateness(self) -> dict[str, float]:
        """Seconds from the moment in which the application knew that a mail was queued until the mail server had the
        mail, by the name of the call."""
        taken = zip(self.mail.taken(), self.mail.times, strict=False)
        return {name: at - self.ledger.queued[name] for name, at in taken if name in self.ledger.queued}

    def longest_pause(self) -> float:
        """Seconds between two mails that the server took, at most."""
        times = sorted(self.mail.times)
        return max(later - earlier for earlier, later in pairwise(times))

    def states(self) -> dict[str, str]:
        """The state of each message in the outbox, by its idempotency key."""
        rows = sql(self.site, f"SELECT key, state FROM outbox_message WHERE key LIKE 'key:{self._stamp}-%'").split()
        return dict(row.removeprefix("key:").split("|") for row in rows)

    def mails(self) -> Counter[str]:
        """How often the mail server took each mail, by its subject."""
        return Counter(self.mail.taken())

    def check_mails(self) -> None:
        """Each message that counts as sent was sent once, and no other mail but such whose answer was cut off."""
        states, mails = self.states(), self.mails()
        assert {key for key, state in states.items() if state == "sent"} <= set(mails) <= set(states)
        assert set(mails.values()) == {1}

    def _synced(self) -> set[str]:
        """The mailboxes whose messages are rows, each once."""
        query = (
            "SELECT c.account_name FROM email_message m JOIN email_folder f ON f.tenant_id = m.tenant_id "
            "AND f.id = m.folder_id JOIN email_client c ON c.tenant_id = f.tenant_id AND c.id = f.email_client_id "
            f"WHERE c.account_name LIKE '{self._stamp}-%' AND f.path = 'INBOX' GROUP BY 1 "
            f"HAVING count(*) = {_MESSAGES} AND count(DISTINCT m.message_id) = {_MESSAGES}"
        )
        return set(sql(self.site, query).split())


@contextmanager
def load_on(site: Site) -> Iterator[Load]:
    """A load that is ready to be started, on a site whose hosts reach this machine."""
    password = site.variable(site.group("mail")[0], "mail_password")
    with Ledger() as ledger, OutsideMailServer(password=password) as mail:
        yield Load(site, ledger, mail)


def eventually(is_so: Callable[[], bool]) -> bool:
    """Whether it becomes so within five minutes, of which a quiet machine needs seconds."""
    deadline = time.monotonic() + _SECONDS
    while not (so := is_so()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return so
