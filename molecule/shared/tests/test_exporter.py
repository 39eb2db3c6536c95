"""metabuilder-exporter.service"""

import re
from typing import Any

from testinfra.host import Host

from tests.support.site import Site, ask_page, main_pid, reaches
from tests.support.worker import wait_until

UNIT = "metabuilder-exporter.service"
PORT = 8000


def told(exporter: Host, login: str, pattern: str) -> list[Any]:
    """What the metrics say that match a pattern."""
    status, text = ask_page(exporter, PORT, "/metrics", login)
    assert status == 200
    return re.findall(pattern, text, re.MULTILINE)


def certificates(site: Site) -> set[str]:
    """What the exporter tells of."""
    host, monitoring, collectors = site.group("exporter")[0], site.group("monitoring"), site.group("log_collection")
    return {
        *({"broker", "results", "postgresql", "authority"} if len(site.names) > 1 else ()),
        *({"exporters"} if monitoring else ()),
        *({"monitoring"} if host in monitoring else ()),
        *({"log_collector" if host in collectors else "log_sender"} if collectors else ()),
    }


def test_it_tells_the_whole_site_to_whoever_has_the_password_of_flower(site: Site, exporter: Host) -> None:
    assert exporter.service(UNIT).is_running
    assert exporter.service(UNIT).is_enabled
    login = f"admin:{site.variable(site.group('exporter')[0], 'flower_password')}"
    assert [ask_page(exporter, PORT, path)[0] for path in ("/metrics", "/")] == [401, 401]
    # On a busy machine a source may take longer than a scrape waits for it, and is asked again by the next one.
    source_up = r'^metabuilder_source_up{source="(\w+)"} 1.0'
    wait_until(lambda: set(told(exporter, login, source_up)) == {"redis", "postgresql"}, "a source is not up")
    # A worker that another test has just started reports after some seconds.
    consuming = r'^metabuilder_worker_consumes{worker="(?:\w+@)?([\w-]+)[^"]*"} 1.0'
    workers = set(site.group("celery_workers"))
    wait_until(lambda: set(told(exporter, login, consuming)) == workers, "not all workers are seen to consume")
    # Under their confinement too, main processes see which connections theirs hold
    held = r'^metabuilder_worker_connections{[^}]*server="redis"[^}]*} [1-9]'
    wait_until(lambda: len(told(exporter, login, held)) >= len(workers), "not all tell their connections")
    # Between hosts the servers show certificates, which are looked at every five minutes; this host has its own
    certificate = r'^metabuilder_certificate_seconds{certificate="(\w+)"} (\S+)'
    wanted = certificates(site)
    wait_until(lambda: {name for name, _ in told(exporter, login, certificate)} == wanted, "not all are told", 200)
    assert all(float(seconds) > 30 * 86_400 for _, seconds in told(exporter, login, certificate))


def test_it_says_that_the_site_works(site: Site, exporter: Host) -> None:
    login = f"admin:{site.variable(site.group('exporter')[0], 'flower_password')}"
    wait_until(lambda: ask_page(exporter, PORT, "/readyz") == (200, "ok\n"), "it is not ready")
    wait_until(
        lambda: "<h1>The site works</h1>" in ask_page(exporter, PORT, "/", login)[1], "the page says otherwise"
    )


def test_it_can_be_reached_and_read_by_nobody_else(site: Site, exporter: Host) -> None:
    assert not reaches(site.first("celery_workers"), site.address(site.group("exporter")[0]), PORT)
    # Its user is neither root nor the one of the workers, and may read no file of passwords
    user = exporter.check_output(f"ps -o user= -p {main_pid(exporter, UNIT)}").strip()
    assert user not in ("root", "celery")
    for file in ("exporter.env", "celery.env"):
        assert exporter.file(f"/etc/metabuilder/{file}").mode & 0o007 == 0
    variables = exporter.check_output("cat /etc/metabuilder/exporter.env /etc/metabuilder/celery.env")
    assert "CREDENTIAL_ENCRYPTION_KEY" not in variables
