"""Every host loses its power at the same moment, under load. Last, as it takes everything away for a while.

POWER_CUTS=5 cuts five times.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.ledger import Ledger, OutsideMailServer, own_address
from tests.support.power import PowerSwitch
from tests.support.site import TENANT, USER, Site, deliver, register, run_code, sql, start_code

_UNITS = {
    "redis": "redis-server@broker",
    "postgresql": "postgresql",
    "celery_workers": "celery-worker",
    "celery_beat": "celery-beat",
    "flower": "celery-flower",
}
_MAILBOXES, _MESSAGES, _SENDS = 10, 100, 400
# The power is cut once so many tasks are queued and so many mails are sent: others wait, and some are at work.
_ENOUGH_QUEUED, _ENOUGH_SENT = 80, 10
_SECONDS = 120
_LEASE_SECONDS = 60
# The last host is dead this much later than it was told, at the latest, and no host is back.
_DYING_SECONDS = 1
# Redis forces its file to the disk once a second, and may be late by another one (docs/operations.md).
_MAY_BE_LOST_SECONDS = 2


class Night:
    """An application under load and what became of its calls."""

    def __init__(self, site: Site, ledger: Ledger, mail: OutsideMailServer) -> None:
        self.site, self.ledger, self.mail = site, ledger, mail
        self.worker = site.first("celery_workers")
        self.address = own_address(site.address(site.group("celery_workers")[0]))
        self._stamp = f"cut{time.time_ns() % 10**9}"
        boxes = [f"{self._stamp}-box{n}" for n in range(_MAILBOXES)]
        sends = {f"{self._stamp}-{n}": boxes[n % _MAILBOXES] for n in range(_SENDS)}
        self.calls = {box: box for box in boxes} | sends
        deliver(site, boxes, _MESSAGES)
        register(site, boxes, smtp_hostname=self.address, smtp_port=mail.port, smtp_encryption="none")
        # Beat is not to sync what a lost task should have.
        sql(
            site,
            f"UPDATE email_client SET next_sync_at = now() + interval '1 day' WHERE username LIKE '{self._stamp}-%'",
        )

    def call(self, names: list[str]) -> None:
        """Have an application on a worker's host make these calls."""
        calls = {name: self.calls[name] for name in names}
        start_code(self.worker, self.ledger.application(self.address, (TENANT, USER), calls))

    def states(self) -> dict[str, str]:
        """The state of each message in the outbox, by its idempotency key."""
        rows = sql(self.site, f"SELECT key, state FROM outbox_message WHERE key LIKE 'key:{self._stamp}-%'").split()
        return dict(row.removeprefix("key:").split("|") for row in rows)

    def synced(self) -> set[str]:
        """The mailboxes whose messages are rows, each once."""
        query = (
            "SELECT c.account_name FROM email_message m JOIN email_folder f ON f.tenant_id = m.tenant_id "
            "AND f.id = m.folder_id JOIN email_client c ON c.tenant_id = f.tenant_id AND c.id = f.email_client_id "
            f"WHERE c.account_name LIKE '{self._stamp}-%' AND f.path = 'INBOX' GROUP BY 1 "
            f"HAVING count(*) = {_MESSAGES} AND count(DISTINCT m.message_id) = {_MESSAGES}"
        )
        return set(sql(self.site, query).split())

    def not_done(self, names: set[str]) -> set[str]:
        """Those of the calls that are neither done nor left to a person."""
        over = {key for key, state in self.states().items() if state in ("sent", "unknown")}
        return names - over - self.synced()


@pytest.fixture
def night(site: Site) -> Iterator[Night]:
    password = site.variable(site.group("mail")[0], "mail_password")
    with Ledger() as ledger, OutsideMailServer(password=password) as mail:
        yield Night(site, ledger, mail)


@pytest.mark.parametrize("cut", range(int(os.environ.get("POWER_CUTS", "1"))))
def test_nothing_is_lost_and_nobody_is_needed(site: Site, night: Night, cut: int) -> None:
    # Given more syncs and sends than the workers can do, half of them at work or waiting
    ledger, taken = night.ledger, night.mail.taken
    night.call(list(night.calls))
    assert _eventually(lambda: len(ledger.queued) >= _ENOUGH_QUEUED and len(taken()) >= _ENOUGH_SENT)

    at = _cut_power(site, night.address)

    # Then every unit works again by itself
    queued, before = dict(ledger.queued), len(taken())
    seconds = _seconds_until_active(site, at)
    # What was queued is done, but for the last calls, which Redis may have lost
    in_hand = _let_pass_what_waits_for_dead_workers(night, at + _DYING_SECONDS)
    _eventually(lambda: not night.not_done(set(queued)))
    lost = night.not_done(set(queued))
    assert all(queued[name] > at - _MAY_BE_LOST_SECONDS for name in lost), lost
    # And a call that the application makes again, as it cannot know, sends no second mail
    night.call(sorted(lost | (set(ledger.begun) - set(queued))))
    assert _eventually(lambda: not night.not_done(set(ledger.begun))), night.not_done(set(ledger.begun))
    states, mails = night.states(), Counter(taken())
    print(
        f"\ncut {cut}: {len(queued)} queued, {before} mails taken and {in_hand} tasks in hand before it; {len(lost)} "
        f"lost; then {dict(Counter(states.values()))}, {len(mails)} mails; all done after {time.time() - at:.0f} s; "
        f"seconds until active: {seconds}"
    )
    assert before < len(states), "all was sent before the cut"
    assert {key for key, state in states.items() if state == "sent"} <= set(mails) <= set(states)
    assert mails.most_common(1)[0][1] == 1


def _cut_power(site: Site, address: str) -> float:
    """Cut the power of all hosts; when that was."""
    with PowerSwitch() as switch, ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: site.host(name).check_output(switch.command(address)), site.names))
        return switch.cut(len(site.names))


def _seconds_until_active(site: Site, at: float) -> dict[str, float]:
    """Wait for all units, and how long after the cut each was active: that of a worker is once it consumes."""
    found = {}
    for group, unit in _UNITS.items():
        for name in site.group(group):
            assert _eventually(lambda name=name, unit=unit: _active_since(site, name, unit) > at), f"{unit} of {name}"
            found[f"{name} {unit}"] = round(_active_since(site, name, unit) - at)
    return found


def _active_since(site: Site, name: str, unit: str) -> float:
    """When the unit became active; 0 while it is not, or while its host cannot be asked."""
    show = "systemctl show --timestamp=unix -p ActiveEnterTimestamp --value"
    try:
        done = site.host(name).run(f"systemctl is-active --quiet {unit} && {show} {unit}")
    except RuntimeError:  # ssh is refused
        return 0
    return float(done.stdout.strip().lstrip("@")) if done.rc == 0 else 0


def _let_pass_what_waits_for_dead_workers(night: Night, at: float) -> int:
    """End the visibility timeout of the tasks that were in hand at the cut (how many), the leases of runs, and the
    wait for answers of mail servers."""
    in_hand = run_code(
        night.worker,
        "from tasks.celery_app import celery_app\nfrom tasks.runtime.broker.transport import broker_client\n"
        "with broker_client(celery_app) as client:\n"
        f"    tags = client.zrangebyscore('unacked_index', 0, {at})\n"
        "    for tag in tags: client.zincrby('unacked_index', -3600, tag)\n"
        "    print(len(tags))\n",
    )
    sql(
        night.site,
        "UPDATE outbox_message SET data_at = data_at - interval '1 h', claimed_at = claimed_at - interval '1 h' "
        f"WHERE state = 'sending' AND claimed_at < to_timestamp({at}); "
        f"UPDATE email_client SET lease_until = now() WHERE lease_until < to_timestamp({at + _LEASE_SECONDS})",
    )
    return int(in_hand)


def _eventually(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _SECONDS
    while not (so := is_so()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return so
