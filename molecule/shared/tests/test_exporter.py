"""metabuilder-exporter.service"""

import re

from testinfra.host import Host

from tests.support.site import Site, ask_page, main_pid, reaches
from tests.support.worker import wait_until

UNIT = "metabuilder-exporter.service"
PORT = 8000


def consuming(exporter: Host, login: str) -> set[str]:
    """The hosts of the workers that consume."""
    _, text = ask_page(exporter, PORT, "/metrics", login)
    found = re.findall(r'^metabuilder_worker_consumes{worker="(?:\w+@)?([\w.-]+)"} 1.0', text, re.MULTILINE)
    return {name.partition(".")[0] for name in found}


def test_it_tells_the_whole_site_to_whoever_has_the_password_of_flower(site: Site, exporter: Host) -> None:
    assert exporter.service(UNIT).is_running
    assert exporter.service(UNIT).is_enabled
    password = site.variable(site.group("exporter")[0], "flower_password")
    assert [ask_page(exporter, PORT, path)[0] for path in ("/metrics", "/")] == [401, 401]
    status, text = ask_page(exporter, PORT, "/metrics", f"admin:{password}")
    assert status == 200
    assert set(re.findall(r"^metabuilder_source_up.*", text, re.MULTILINE)) == {
        'metabuilder_source_up{source="redis"} 1.0',
        'metabuilder_source_up{source="postgresql"} 1.0',
    }
    # A worker that another test has just started reports after some seconds.
    workers = set(site.group("celery_workers"))
    wait_until(lambda: consuming(exporter, f"admin:{password}") == workers, "not all workers are seen to consume")
    # Between hosts the servers show certificates
    ends = dict(re.findall(r'^metabuilder_certificate_seconds{certificate="(\w+)"} (\S+)', text, re.MULTILINE))
    is_encrypted = len(site.names) > 1
    assert ends.keys() == ({"broker", "results", "postgresql", "authority"} if is_encrypted else set())
    assert all(float(seconds) > 30 * 86_400 for seconds in ends.values())


def test_it_says_that_the_site_works(site: Site, exporter: Host) -> None:
    assert ask_page(exporter, PORT, "/readyz") == (200, "ok\n")
    password = site.variable(site.group("exporter")[0], "flower_password")
    status, text = ask_page(exporter, PORT, "/", f"admin:{password}")
    assert status == 200
    assert "<h1>The site works</h1>" in text


def test_it_can_be_reached_and_read_by_nobody_else(site: Site, exporter: Host) -> None:
    assert not reaches(site.first("celery_workers"), site.address(site.group("exporter")[0]), PORT)
    # Its user is neither root nor the one of the workers, and may read no file of passwords
    user = exporter.check_output(f"ps -o user= -p {main_pid(exporter, UNIT)}").strip()
    assert user not in ("root", "celery")
    for file in ("exporter.env", "celery.env"):
        assert exporter.file(f"/etc/metabuilder/{file}").mode & 0o007 == 0
    variables = exporter.check_output("cat /etc/metabuilder/exporter.env /etc/metabuilder/celery.env")
    assert "CREDENTIAL_ENCRYPTION_KEY" not in variables
