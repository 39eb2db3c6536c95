"""Each of three equal hosts loses its power once, under load, and comes back: the others go on by themselves, and
nothing is lost or done twice."""

import time
from collections import Counter

import pytest

from tests.support.hosts.network import Network
from tests.support.load import Load, eventually
from tests.support.probe import probing
from tests.support.site import Site, sql

# From the power cut until PostgreSQL has acknowledged a write: the product's promise, ten times for a busy machine.
_WRITES_SECONDS = 30
_BUSY = 10


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_others_go_on(site: Site, load: Load, network: Network, number: int) -> None:
    # Given three hosts with a copy of everything each, and an application on another host than the one that goes
    assert eventually(lambda: _copies(site) == 2), "PostgreSQL does not have its copies"
    hosts = site.group("postgresql")
    victim, other = hosts[number], hosts[number - 1]
    load.caller = site.host(other)
    primary = _primary(site)
    with probing(load.caller, load.address, f"probe{time.time_ns() % 10**9}") as probe:
        load.start()

        # When the host loses its power and stays away
        network.container(victim).kill()
        at = time.time()

        # Then the others take writes and send mail
        mails = len(load.mails())
        assert eventually(lambda: probe.acknowledged_since(at)), "PostgreSQL takes no writes"
        assert eventually(lambda: len(load.mails()) > mails), "no mail is sent"
        _come_back(site, network, victim)
        load.ledger.is_closed = True
        pause = probe.longest_pause()

    # And nothing of what was acknowledged is lost, and none done twice
    in_hand = load.let_pass_what_waits_for_dead_workers(at)
    queued = dict(load.ledger.queued)
    lost = load.not_done(queued)
    print(
        f"\n{victim} (PostgreSQL's primary: {primary == victim}): writes paused for {pause:.1f} s, mail for "
        f"{load.longest_pause():.1f} s; {len(queued)} calls queued, {in_hand} tasks in hand; "
        f"{dict(Counter(load.states().values()))}"
    )
    assert lost == {}
    assert not load.not_done(load.ledger.begun)
    load.check_mails()
    assert probe.missing(site) == set()
    assert pause < _WRITES_SECONDS * _BUSY


def _come_back(site: Site, network: Network, victim: str) -> None:
    """Boot the host; it is a standby of the one that took over, with all that was missed."""
    network.container(victim).start()
    network.wait(victim)
    assert eventually(lambda: _copies(site) == 2), f"{victim} does not follow"


def _copies(site: Site) -> int:
    """How many standbys stream from the primary."""
    return int(sql(site, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"))


def _primary(site: Site) -> str:
    """The host with PostgreSQL's primary."""
    return sql(site, "SELECT pg_read_file('/etc/hostname')").strip()
