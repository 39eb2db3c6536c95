"""After a reboot of every host all is running again. Last, as it takes everything away for a while."""

import time

from tests.support.site import RemoteMailbox, Site, wait_active

_UNITS = {
    "redis": "redis-server@broker.service",
    "postgresql": "postgresql.service",
    "celery_workers": "celery-worker.service",
    "celery_beat": "celery-beat.service",
    "flower": "celery-flower.service",
}
_SECONDS = 120


def test_everything_comes_back(site: Site) -> None:
    # The same moment for all hosts: the order in which they come back is up to them.
    before = {name: _booted(site, name) for name in site.names}
    for name in site.names:
        site.host(name).run("systemctl reboot")
    deadline = time.monotonic() + _SECONDS
    for name in site.names:
        while _booted(site, name) in ("", before[name]):
            assert time.monotonic() < deadline, f"{name} did not come back"
            time.sleep(1)
    for group, unit in _UNITS.items():
        for name in site.group(group):
            host = site.host(name)
            if group == "postgresql":
                assert _eventually_active(host, unit)
            else:
                wait_active(host, unit, seconds=_SECONDS)
    mailbox = RemoteMailbox(site, f"reboot-{time.time_ns() % 10**9}")
    mailbox.deliver(3)
    mailbox.register()
    assert mailbox.sync(90)["messages_synced"] == 3


def _booted(site: Site, name: str) -> str:
    """When a host's systemd was started; empty while it cannot be asked."""
    try:
        done = site.host(name).run(
            "systemctl show -p UserspaceTimestampMonotonic --value && systemctl is-system-running"
        )
    except Exception:  # testinfra raises RuntimeError and others when ssh is refused
        return ""
    return done.stdout.split("\n")[0] if done.stdout and "stopping" not in done.stdout else ""


def _eventually_active(host: object, unit: str) -> bool:
    deadline = time.monotonic() + _SECONDS
    while host.run(f"systemctl is-active {unit}").stdout.strip() != "active":
        assert time.monotonic() < deadline
        time.sleep(1)
    return True
