"""Only the ports needed, only from the hosts that need them."""

from pathlib import Path

import pytest

from tests.support.site import Site, reaches

PORTS = {"redis": 6379, "postgresql": 5432}


@pytest.fixture
def _several_hosts(site: Site) -> None:
    if len(site.names) == 1:
        pytest.skip("all is on one host: only loopback is used")


@pytest.mark.usefixtures("_several_hosts")
@pytest.mark.parametrize(("group", "port"), PORTS.items())
def test_a_host_that_needs_it_is_let_in(site: Site, group: str, port: int) -> None:
    assert reaches(site.first("celery_workers"), site.address(site.group(group)[0]), port)


@pytest.mark.usefixtures("_several_hosts")
@pytest.mark.parametrize(("group", "port"), PORTS.items())
def test_a_host_not_on_the_list_is_refused(site: Site, group: str, port: int) -> None:
    server = site.address(site.group(group)[0])
    assert reaches(site.first("mail"), server, 22)  # so it is the port that is closed
    assert not reaches(site.first("mail"), server, port)


@pytest.mark.usefixtures("_several_hosts")
def test_beat_reaches_the_database(site: Site) -> None:
    apart = [host for host in site.group("celery_beat") if host not in site.group("celery_workers")]
    if not apart:
        pytest.skip("beat runs beside a worker")
    assert reaches(site.host(apart[0]), site.address(site.group("postgresql")[0]), PORTS["postgresql"])


@pytest.mark.usefixtures("_several_hosts")
def test_a_new_worker_by_limit_is_told_whose_firewall_must_be_run_too(site: Site, tmp_path: Path) -> None:
    # Given a host that is a worker as of now, in a site whose Redis shuts it out and whose PostgreSQL asks who it is
    (new,) = site.group("mail")
    (tmp_path / "more.yml").write_text(f"celery_workers: {{hosts: {{{new}: }}}}\n")
    server = site.first("postgresql")
    server.check_output(f"nft insert rule inet metabuilder input ip saddr {site.address(new)} tcp dport 5432 accept")
    try:
        play = site.play("site.yml", f"--inventory={tmp_path / 'more.yml'}", "--limit", new)
    finally:
        server.check_output("systemctl reload metabuilder-firewall")

    # Then nothing is changed, and both are named, with why and with the command to run
    assert play.status != 0
    assert play.changed == 0, play.changed_tasks
    said = " ".join(play.output.split())
    redis, database = site.group("redis")[0], site.group("postgresql")[0]
    assert f"{redis} (port 6379: timed out)" in said, play.output[-4000:]
    assert f"{database} (port 5432: no pg_hba.conf entry for host" in said
    assert f"site.yml --limit ''{new},{redis},{database}''" in said or f"'{new},{redis},{database}'" in said
