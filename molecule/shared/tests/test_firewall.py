"""Only the ports needed, only from the hosts that need them."""

import pytest

from tests.support.site import Site, reaches

PORTS = {"redis": 6379, "postgresql": 5432}


@pytest.fixture(autouse=True)
def _several_hosts(site: Site) -> None:
    if len(site.names) == 1:
        pytest.skip("all is on one host: only loopback is used")


@pytest.mark.parametrize(("group", "port"), PORTS.items())
def test_a_host_that_needs_it_is_let_in(site: Site, group: str, port: int) -> None:
    assert reaches(site.first("celery_workers"), site.address(site.group(group)[0]), port)


@pytest.mark.parametrize(("group", "port"), PORTS.items())
def test_a_host_not_on_the_list_is_refused(site: Site, group: str, port: int) -> None:
    server = site.address(site.group(group)[0])
    assert reaches(site.first("mail"), server, 22)  # so it is the port that is closed
    assert not reaches(site.first("mail"), server, port)


def test_beat_needs_no_database(site: Site) -> None:
    apart = [host for host in site.group("celery_beat") if host not in site.group("celery_workers")]
    if not apart:
        pytest.skip("beat runs beside a worker")
    assert not reaches(site.host(apart[0]), site.address(site.group("postgresql")[0]), PORTS["postgresql"])
