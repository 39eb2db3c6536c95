"""The deployed site for the tests; a failed test shows what its host's units wrote to the journal."""

from collections.abc import Iterator

import pytest
from testinfra.host import Host

from tests.support.load import Load, load_on
from tests.support.site import Site
from tests.support.tried_twice import pytest_terminal_summary as pytest_terminal_summary

# A test that takes one of these is run on every host of the group.
_GROUPS = {
    "redis_host": "redis",
    "postgresql_host": "postgresql",
    "worker": "celery_workers",
    "beat": "celery_beat",
    "flower": "flower",
    "exporter": "exporter",
    "admin_host": "admin_uis",
    "monitoring": "monitoring",
    "collector": "log_collection",
}
_UNITS = (
    "-u 'redis-server@*' -u 'postgresql*' -u 'celery-*' -u mail-watcher -u 'metabuilder-*' -u 'prometheus*' "
    "-u 'systemd-journal-*' -u nftables"
)

_site: Site


def pytest_configure(config: pytest.Config) -> None:
    global _site
    folder = pytest.TempPathFactory.from_config(config, _ispytest=True).mktemp("site", numbered=True)
    _site = Site.of_scenario(folder)


@pytest.fixture(scope="session")
def site() -> Site:
    return _site


@pytest.fixture
def load(site: Site) -> Iterator[Load]:
    with load_on(site) as ready:
        yield ready


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in metafunc.fixturenames:
        if name in _GROUPS or name == "any_host":
            hosts = _site.group(_GROUPS[name]) if name in _GROUPS else _site.names
            metafunc.parametrize(name, hosts, ids=hosts, indirect=True)


def _host(request: pytest.FixtureRequest) -> Host:
    return _site.host(request.param)


for _name in (*_GROUPS, "any_host"):
    globals()[_name] = pytest.fixture(name=_name)(_host)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.when != "call" or not report.failed:
        return
    for name in _site.names:
        try:
            said = _site.host(name).run(f"journalctl --no-pager --since=-3min -n 60 {_UNITS}").stdout
        except RuntimeError as error:  # ssh is refused
            said = str(error)
        report.sections.append((f"journal of {name}", said))
