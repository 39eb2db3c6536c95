"""Every host loses its power at the same moment, under load. Last, as it takes everything away for a while.

POWER_CUTS=5 cuts five times.
"""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.load import Load, eventually
from tests.support.power import PowerSwitch
from tests.support.site import Site

_UNITS = {
    "redis": "redis-server@broker",
    "postgresql": "postgresql",
    "celery_workers": "celery-worker",
    "celery_beat": "celery-beat",
    "flower": "celery-flower",
    "exporter": "metabuilder-exporter",
}
# The last host is dead this much later than it was told, at the latest, and no host is back.
_DYING_SECONDS = 2
# Redis forces its file to the disk once a second, and may be late by another one (docs/operations.md).
_MAY_BE_LOST_SECONDS = 2


@pytest.mark.parametrize("cut", range(int(os.environ.get("POWER_CUTS", "1"))))
def test_nothing_is_lost_and_nobody_is_needed(site: Site, load: Load, cut: int) -> None:
    load.start()

    at = _cut_power(site, load.address)

    # Then every unit works again by itself
    queued, sent = dict(load.ledger.queued), len(load.mails())
    seconds = _seconds_until_active(site, at)
    # What was queued is done, but for the last calls, which Redis may have lost
    in_hand = load.let_pass_what_waits_for_dead_workers(at + _DYING_SECONDS)
    lost = load.not_done(queued)
    assert all(queued[name] > at - _MAY_BE_LOST_SECONDS for name in lost), lost
    # And a call that the application makes again, as it cannot know, sends no second mail
    if unsure := lost.keys() | (load.ledger.begun.keys() - queued):
        load.call(unsure)
    assert not load.not_done(load.ledger.begun)
    print(
        f"\ncut {cut}: {len(queued)} calls queued, {sent} mails sent and {in_hand} tasks in hand before it; "
        f"{len(lost)} lost; then {dict(Counter(load.states().values()))}; all done after {time.time() - at:.0f} s; "
        f"active after {seconds}"
    )
    assert sent < len(load.mails()), "all was sent before the cut"
    load.check_mails()


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
            assert eventually(lambda name=name, unit=unit: _active_since(site, name, unit) > at), f"{unit} of {name}"
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
