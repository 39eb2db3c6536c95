"""Preflight finds what the issue of the site lists, names the variable, its value and the remedy, and no secret."""

from typing import Any

import pytest

from tests.unit.roles.plugins import load

preflight = load("preflight/filter_plugins/preflight.py")

KEY = "c2FtcGxlIGtleSwga25vd24gdG8gZXZlcnlib2R5ISE="
GROUPS = {
    "redis": ["one"],
    "postgresql": ["one"],
    "celery_workers": ["one", "two"],
    "celery_beat": ["one"],
    "flower": [],
}
DEFAULTS = {
    "_preflight_defaults_celery_worker": {
        "celery_worker_concurrency": 4,
        "celery_worker_child_memory_mb": 256,
        "celery_worker_task_timeout": 300,
        "celery_worker_task_soft_time_limit": 280,
        "celery_worker_retry_max_delay": 600,
        "celery_worker_visibility_timeout": 1200,
        "celery_worker_pools": [],
    },
    "_preflight_defaults_redis": {
        "redis_instances": [{"name": "broker", "port": 6379}],
        "redis_maxmemory": "512mb",
        "redis_maxmemory_policy": "noeviction",
    },
    "_preflight_defaults_postgresql": {"postgresql_max_connections": 200},
    "_preflight_defaults_tls": {"tls_ca_file": "", "tls_ca_passphrase": ""},
}
SECRETS = {
    "redis_password": "of-redis",
    "redis_admin_password": "of-the-admin",
    "postgresql_application_password": "of-the-application",
    "postgresql_owner_password": "of-the-owner",
    "application_credential_encryption_key": KEY,
}


def host(**changed: Any) -> dict[str, Any]:
    """The variables of a host on which nothing is wrong, but for what is changed; `report` and `facts` are merged."""
    facts = {"distribution": "Debian", "distribution_major_version": "12", "memtotal_mb": 8192}
    report = {"has_systemd": True, "listeners": {}, "unresolved": [], "clock": {"offset": 0.0, "uncertainty": 0.1}}
    values = {"ports": {"6379": "redis-server@broker.service"}, "site_redis_tls": False, "site_postgresql_tls": False}
    return {
        "ansible_facts": facts | changed.pop("facts", {}),
        "__preflight_report": report | changed.pop("report", {}),
        "__preflight_values": values | changed.pop("values", {}),
        **DEFAULTS,
        **SECRETS,
        **changed,
    }


def findings(one: dict[str, Any], two: dict[str, Any] | None = None, **changed: Any) -> list[str]:
    samples = changed.get("samples", {})
    hosts = {"one": one, "two": two or host()}
    return preflight.preflight_findings(hosts, changed.get("groups", GROUPS), ["one", "two"], samples, 1)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert findings(host()) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param({"facts": {"distribution": "Ubuntu"}}, ["distribution", "Ubuntu 12", "Debian 12"], id="system"),
        pytest.param({"facts": {"distribution_major_version": "11"}}, ["Debian 11", "Debian 12 or 13"], id="release"),
        pytest.param({"report": {"has_systemd": False}}, ["ansible_connection", "systemd"], id="no systemd"),
        pytest.param({"report": {"listeners": {"6379": "nginx"}}}, ["6379", "nginx", "redis_instances"], id="port"),
        pytest.param({"report": {"unresolved": ["db.x"]}}, ["site_address", "db.x", "IP address"], id="name"),
        pytest.param({"report": {"has_other_databases": True}}, ["postgresql_version", "pg_hba.conf"], id="cluster"),
        pytest.param(
            {"facts": {"memtotal_mb": 1536}}, ["1536 MB", "celery_worker_concurrency 4", "lower"], id="memory"
        ),
        pytest.param({"celery_worker_memory_max": "900M"}, ["celery_worker_memory_max 900m", "1024 MB"], id="limit"),
        pytest.param(
            {"redis_maxmemory_policy": "allkeys-lru"}, ["allkeys-lru", "broker", "noeviction"], id="eviction"
        ),
        pytest.param(
            {"celery_worker_visibility_timeout": 900},
            ["celery_worker_visibility_timeout 900", "300 + 600", "raise it"],
            id="visibility timeout",
        ),
        pytest.param(
            {"celery_worker_pools": [{"name": "big", "task_timeout": 3600, "task_soft_time_limit": 3500}]},
            ["big", "3600 + 600"],
            id="visibility timeout of a pool",
        ),
        pytest.param({"celery_worker_task_soft_time_limit": 300}, ["soft_time_limit 300", "lower"], id="soft limit"),
        pytest.param(
            {"redis_instances": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]},
            ["redis_instances", "port is 1, 1"],
            id="instances",
        ),
        pytest.param({"values": {"site_redis_tls": True}}, ["tls_ca_passphrase", "secrets init"], id="authority"),
        pytest.param(
            {"values": {"site_redis_tls": True}, "tls_ca_file": "ca.pem", "tls_redis_key_file": "k"},
            ["tls_redis_certificate_file", "tls_ca_file"],
            id="brought certificates",
        ),
        pytest.param(
            {"postgresql_max_connections": 20},
            ["postgresql_max_connections 20", "26", "8 processes", "raise it"],
            id="connections",
        ),
        pytest.param({"redis_password": ""}, ["redis_password", "not set", "secrets init"], id="missing secret"),
        pytest.param({"redis_password": "a\nb"}, ["redis_password", "line break"], id="line break"),
        pytest.param(
            {"application_credential_encryption_key": f"{KEY},short"}, ["encryption_key", "key 2"], id="malformed key"
        ),
    ],
)
def test_a_finding_names_the_variable_the_value_and_the_remedy(variables: dict[str, Any], said: list[str]) -> None:
    (found,) = findings(host(**variables))
    for words in said:
        assert words in found


def test_clocks_that_are_apart_are_found_but_not_what_may_be_the_measurement() -> None:
    late = {"report": {"clock": {"offset": -1.4, "uncertainty": 0.1}}}
    unsure = {"report": {"clock": {"offset": -1.4, "uncertainty": 0.5}}}

    (found,) = findings(host(), host(**late))

    assert "one, two" in found
    assert "1.4 s" in found
    assert findings(host(), host(**unsure)) == []


def test_a_sample_is_refused_without_being_shown() -> None:
    (found,) = findings(host(), samples={"redis_password": "of-redis"})

    assert "redis_password" in found
    assert "of-redis" not in found


def test_two_servers_in_a_group_that_has_one_are_found() -> None:
    (found,) = findings(host(), groups={**GROUPS, "redis": ["one", "two"]})

    assert "group redis has 2 hosts" in found


def test_all_findings_come_at_once() -> None:
    found = findings(host(facts={"distribution": "Ubuntu"}, redis_password="", postgresql_max_connections=1))

    assert len(found) == 3


def test_the_port_of_an_instance_that_runs_already_is_its_own() -> None:
    assert findings(host(report={"listeners": {"6379": "redis-server@broker.service"}})) == []


@pytest.mark.parametrize(("limit", "megabytes"), [("512mb", 512), ("2gb", 2048), ("1048576", 1), ("0", 0)])
def test_memory_is_read_as_redis_reads_it(limit: str, megabytes: int) -> None:
    one = preflight.Host("one", host(redis_maxmemory=limit), GROUPS)

    assert list(preflight.redis_memory(one)) == [megabytes]
