"""Preflight finds what the issue of the site lists, names the variable, its value and the remedy, and no secret."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jinja2 import StrictUndefined

from tests.support.certificates import Authority
from tests.unit.roles.plugins import load

preflight = load("preflight/filter_plugins/preflight.py")
preflight_values = load("preflight/filter_plugins/preflight_values.py")

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
    "_preflight_defaults_mail_watcher": {"mail_watcher_enabled": False, "mail_watcher_memory_max": "1536M"},
    "_preflight_defaults_postgresql": {"postgresql_max_connections": 200},
    "_preflight_defaults_backup": {"backup_passphrase": ""},
    "_preflight_defaults_tls": {"tls_ca_file": "", "tls_ca_passphrase": "", "tls_renew_before_days": 30},
}
SECRETS = {
    "redis_password": "of-redis",
    "redis_admin_password": "of-the-admin",
    "postgresql_application_password": "of-the-application",
    "postgresql_worker_password": "of-the-workers",
    "postgresql_owner_password": "of-the-owner",
    "postgresql_replication_password": "of-the-copies",
    "application_credential_encryption_key": KEY,
}


def pool(**changed: Any) -> dict[str, Any]:
    """A pool that needs no more memory or connections than there are, but for what is changed."""
    return {"name": "sending", "queues": ["send"], "concurrency": 1, **changed}


def host(**changed: Any) -> dict[str, Any]:
    """The variables of a host on which nothing is wrong, but for what is changed; `report` and `facts` are merged."""
    facts = {"distribution": "Debian", "distribution_major_version": "12", "memtotal_mb": 8192}
    report = {"has_systemd": True, "listeners": {}, "unresolved": [], "clock": {"offset": 0.0, "uncertainty": 0.1}}
    values = {
        "ports": {"6379": "redis-server@broker.service", "5432": "postgresql@15-main.service"},
        "postgresql_brought": 15,
        "site_redis_tls": False,
        "site_postgresql_tls": False,
    }
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
    mistakes = preflight_values.preflight_mistakes(hosts, ["one", "two"])
    return preflight.preflight_findings(hosts, changed.get("groups", GROUPS), mistakes, samples, 1)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert findings(host()) == []


def test_the_admin_pages_need_passwords_where_there_are_any() -> None:
    groups = {**GROUPS, "admin_uis": ["two"]}
    passwords = {"admin_uis_password": "of-the-pages", "redis_admin_uis_password": "of-redis-commander"}
    assert findings(host(**passwords), host(**passwords), groups=groups) == []
    for name in passwords:
        empty = host(**{**passwords, name: ""})
        assert findings(empty, empty, groups=groups) == [
            f"{name} is not set: ./manage.sh secrets init adds missing secrets"
        ]


def test_no_list_of_ansible_is_copied_with_all_variables_of_its_host() -> None:
    class List(list[Any]):
        def __deepcopy__(self, memo: object) -> Any:
            raise AssertionError("this takes seconds")

    assert findings(host(celery_worker_pools=List([pool()]))) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param({"facts": {"distribution": "Ubuntu"}}, ["distribution", "Ubuntu 12", "Debian 12"], id="system"),
        pytest.param({"facts": {"distribution_major_version": "11"}}, ["Debian 11", "Debian 12 or 13"], id="release"),
        pytest.param({"report": {"has_systemd": False}}, ["ansible_connection", "systemd"], id="no systemd"),
        pytest.param({"report": {"listeners": {"6379": "nginx"}}}, ["6379", "nginx", "redis_instances"], id="port"),
        pytest.param({"report": {"unresolved": ["db.x"]}}, ["site_address db.x", "IP address"], id="name"),
        pytest.param(
            {
                "site_redis_host": "redis.x",
                "report": {"unresolved": ["redis.x"]},
                "values": {"names": {"site_redis_host": "redis.x", "site_redis_result_host": "redis.x"}},
            },
            ["site_redis_host redis.x does not resolve", "IP address"],
            id="name of Redis",
        ),
        pytest.param({"report": {"has_other_databases": True}}, ["postgresql_version", "pg_hba.conf"], id="cluster"),
        pytest.param(
            {"facts": {"memtotal_mb": 1536}}, ["1536 MB", "celery_worker_concurrency 4", "lower"], id="memory"
        ),
        pytest.param({"celery_worker_memory_max": "900M"}, ["celery_worker_memory_max 900M", "1024 MB"], id="limit"),
        pytest.param(
            {"redis_maxmemory_policy": "allkeys-lru"}, ["allkeys-lru", "broker", "noeviction"], id="eviction"
        ),
        pytest.param(
            {"postgresql_settings": {"fsync": "off"}},
            ["fsync off", "power cut", "leave this setting out"],
            id="fsync",
        ),
        pytest.param(
            {"postgresql_settings": {"synchronous_commit": False}}, ["synchronous_commit", "leave"], id="commit"
        ),
        pytest.param(
            {"redis_instances": [{"name": "broker", "port": 6379, "appendonly": False}]},
            ["redis_appendonly of broker", "lose all tasks"],
            id="no file of the broker",
        ),
        pytest.param(
            {"celery_worker_visibility_timeout": 900},
            ["celery_worker_visibility_timeout 900", "300 + 600", "raise celery_worker_visibility_timeout"],
            id="visibility timeout",
        ),
        pytest.param(
            {"celery_worker_pools": [pool(name="big", task_timeout=3600, task_soft_time_limit=3500)]},
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
            {"values": {"site_redis_tls": True}, "tls_ca_file": __file__, "tls_redis_key_file": __file__},
            ["tls_redis_certificate_file", "tls_ca_file"],
            id="brought certificates",
        ),
        pytest.param(
            {"tls_ca_file": "/nonexistent"}, ["tls_ca_file /nonexistent", "control machine"], id="authority's file"
        ),
        pytest.param(
            {
                "values": {"site_redis_tls": True},
                "tls_ca_file": __file__,
                "tls_redis_certificate_file": __file__,
                "tls_redis_key_file": "keys/redis.key",
            },
            ["tls_redis_key_file keys/redis.key", "control machine"],
            id="key's file",
        ),
        pytest.param(
            {"postgresql_version": 99, "report": {"listeners": {"5432": "postgresql@15-main.service"}}},
            ["postgresql_version 99", "brings 15", "leave the variable out"],
            id="version",
        ),
        pytest.param(
            {"celery_worker_pools": [pool(name="a"), pool(name="a")]},
            ["celery_worker_pools", "2 pools have the name a", "a name of its own"],
            id="pools of one name",
        ),
        pytest.param(
            {"celery_worker_pools": [pool(name="a", queues=[])]},
            ["celery_worker_pools, a", "queues is empty", "leave the pool out"],
            id="a pool without queues",
        ),
        pytest.param(
            {"postgresql_max_connections": 20},
            [
                "postgresql_max_connections 20",
                "29",
                "3 for each beat",
                "8 processes",
                "raise postgresql_max_connections",
            ],
            id="connections",
        ),
        pytest.param(
            {"postgresql_max_connections": 39, "mail_watcher_enabled": True},
            ["postgresql_max_connections 39", "40", "11 for each watcher (mail_watcher_enabled: 1)"],
            id="connections of a watcher",
        ),
        pytest.param(
            {"mail_watcher_enabled": True, "mail_watcher_memory_max": "7G"},
            ["memory: the host has", "mail_watcher_memory_max 7168 MB"],
            id="memory of a watcher",
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


def test_a_watcher_that_is_not_wanted_needs_nothing() -> None:
    """Ansible has the word `false` of -e mail_watcher_enabled=false."""
    assert findings(host(mail_watcher_enabled="false", mail_watcher_memory_max="7G")) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param({"celery_worker_concurrency": "many"}, ["many", "not a whole number", "README"], id="int"),
        pytest.param({"celery_worker_concurrency": 4.0}, ["4.0", "not a whole number"], id="fraction"),
        pytest.param({"celery_worker_concurrency": True}, ["True", "not a whole number"], id="bool for int"),
        pytest.param({"celery_worker_concurrency": None}, ["has no value"], id="null"),
        pytest.param({"celery_worker_concurrency": 0}, ["0 is below 1", "raise it"], id="zero"),
        pytest.param({"application_ssl_verify": "maybe"}, ["maybe", "convert to bool"], id="bool"),
        pytest.param({"application_spam_score_threshold": 2}, ["2 is above 1", "lower it"], id="float"),
        pytest.param({"flower_port": "99999"}, ["99999 is above 65535", "lower it"], id="port"),
        pytest.param({"firewall_ssh_ports": [22, 0]}, ["0 is below 1"], id="ports"),
        pytest.param({"application_smtp_max_message_bytes": 1}, ["below 65536"], id="a setting's own limit"),
        pytest.param({"application_log_level": "LOUD"}, ["LOUD", "DEBUG, INFO"], id="choice"),
        pytest.param({"celery_worker_queues": ["nosuch"]}, ["nosuch", "sync, periodic"], id="queue"),
        pytest.param({"celery_worker_queues": "send"}, ["send", "not a list"], id="text for a list"),
        pytest.param({"celery_worker_memory_max": "lots"}, ["lots", "systemd", "512M"], id="size for systemd"),
        pytest.param({"celery_beat_memory_max": "512mb"}, ["512mb", "systemd", "512M"], id="Redis' size for systemd"),
        pytest.param({"celery_worker_cpu_quota": "half"}, ["half", "150%"], id="share of processors"),
        pytest.param({"redis_maxmemory": "lots"}, ["lots", "Redis", "512mb"], id="size for Redis"),
        pytest.param({"redis_instances": 3}, ["redis_instances 3", "not a list"], id="instances"),
        pytest.param({"redis_instances": [{"name": "a"}]}, ["missing", "port"], id="an instance without port"),
        pytest.param({"celery_worker_pools": "send"}, ["celery_worker_pools send", "not a list"], id="pools"),
        pytest.param({"celery_worker_pools": ["send"]}, ["send", "mapping"], id="a pool"),
        pytest.param({"celery_worker_pools": [pool(concurrency="two")]}, ["two", "whole number"], id="int of a pool"),
        pytest.param(
            {"celery_worker_pools": [pool(concurrency=0)]}, ["sending: concurrency 0", "raise it"], id="none"
        ),
        pytest.param({"celery_worker_pools": [pool(name="a b")]}, ["name a b", "letters"], id="name of a pool"),
        pytest.param({"celery_worker_pools": [pool(queues=["nosuch"])]}, ["nosuch", "sync"], id="queue of a pool"),
        pytest.param({"celery_worker_pools": [pool(queue="send")]}, ["queue.", "queues"], id="unknown key"),
        pytest.param({"firewall_allow": [{"from": ["10.0.0.1"]}]}, ["missing", "port"], id="an opening without port"),
        pytest.param({"redis_save": "x y"}, ["x y", "3600 1"], id="when to save"),
        pytest.param({"redis_user": "a b"}, ["a b", "letters"], id="name of a user"),
        pytest.param({"redis_user": "default"}, ["default", "administrator"], id="the administrator of Redis"),
        pytest.param({"postgresql_listen_addresses": "it's"}, ["it's", "10.1.2.3"], id="addresses"),
        pytest.param({"flower_address": "not an address?"}, ["not an address", "10.1.2.3"], id="address"),
        pytest.param({"exporter_address": "127.0.0.1,10.0.0.1"}, ["0.1,10.0", "not one address"], id="two addresses"),
        pytest.param({"exporter_address": "*"}, ["*", "not one address", "0.0.0.0"], id="every address"),
        pytest.param({"flower_address": "10.1.2.300"}, ["10.1.2.300", "not one address"], id="no address"),
        pytest.param({"flower_url_prefix": "fl ower"}, ["fl ower", "like flower"], id="path"),
        pytest.param({"application_spam_api_url": "spam"}, ["spam", "https://"], id="URL"),
        pytest.param({"redis_user": ["x"]}, ["x", "not a text"], id="list for a text"),
        pytest.param(
            {"celery_worker_concurency": 2},
            ["not a variable of any role", "celery_worker_concurrency?"],
            id="misspelt",
        ),
        pytest.param({"application_mail_allowed_networks": ["xx"]}, ["xx", "10.1.2.0/24"], id="network"),
        pytest.param({"application_mail_allowed_networks": ["::1=0"]}, ["::1=0", "10.1.2.3=143"], id="port of one"),
        pytest.param({"application_mail_host_connections": "50"}, ["50", "imap.example.org=10"], id="connections"),
        pytest.param({"application_spam_trusted_authserv_ids": "a"}, [" a ", "mx.google.com"], id="authserv-id"),
        pytest.param({"postgresql_memory_mb": StrictUndefined(name="typo")}, ["'typo' is undefined"], id="undefined"),
    ],
)
def test_a_value_that_a_role_could_not_use_is_one_finding(variables: dict[str, Any], said: list[str]) -> None:
    (found,) = findings(host(**variables))
    for words in [f"one: {next(iter(variables))}", *said]:
        assert words in found


@pytest.mark.parametrize(
    "variables",
    [
        {"celery_worker_concurrency": "2", "celery_worker_cpu_quota": "150%", "application_trash_retention_days": 0},
        {"admin_uis_watchdog_seconds": 0, "celery_beat_watchdog_seconds": 0, "mail_watcher_watchdog_seconds": 0},
        {"celery_worker_memory_max": "2G", "celery_beat_memory_max": "infinity", "flower_memory_max": "12.5%"},
        {"firewall_allow": [{"port": 443}, {"port": 9100, "from": "10.1.2.3"}], "celery_worker_queues": ["send"]},
        {"celery_worker_pools": [pool(), pool(name="big_1", memory_max="1G", cpu_quota="50%", tasks_max=90)]},
        {"application_environment": {"FLOWER_XHEADERS": "true", "REDIS_URL": "redis://"}},
        {
            "redis_save": "3600 1 300 100",
            "flower_address": "::1",
            "exporter_address": "prometheus-1.example.org",
            "postgresql_listen_addresses": "10.0.0.1, localhost",
        },
        {"application_spam_api_url": "https://spam.x/v2", "flower_url_prefix": "a/b", "redis_user": "meta-builder"},
        {"deploy_serial": 2, "_redis_of_the_role": 1},
    ],
)
def test_values_that_the_roles_take_are_no_findings(variables: dict[str, Any]) -> None:
    assert findings(host(**variables)) == []


def test_the_environment_has_settings_only_and_no_value_is_shown_that_may_be_secret() -> None:
    environment = {
        "TASK_TIMEOUT": "planted",
        "NOSUCH": "planted",
        "CREDENTIAL_ENCRYPTION_KEY": "planted",
        "FLOWER_PORT": "planted",
        "FLOWER_XHEADERS": "planted",
        "PROMETHEUS_PORT": "planted",
        "REDIS_URL": "planted",
    }

    found = findings(host(application_environment=environment))

    assert [finding.partition("application_environment: ")[2].partition(":")[0] for finding in found] == [
        "TASK_TIMEOUT is made from role variables",
        "NOSUCH is not a setting",
        "CREDENTIAL_ENCRYPTION_KEY is made from role variables",
        "FLOWER_PORT is set by the role flower",
        "PROMETHEUS_PORT is set by the role exporter",
    ]
    assert "set celery_worker_task_timeout instead" in found[0]
    assert "set application_credential_encryption_key instead" in found[2]
    assert "planted" not in str(found)
    assert "planted" not in str(findings(host(application_environment="REDIS_PASSWORD=planted")))


def test_a_wrong_type_hides_no_other_finding() -> None:
    found = findings(
        host(celery_worker_concurrency="many", redis_maxmemory="lots", redis_password="", facts={"memtotal_mb": 64})
    )

    assert [words for words in ("many", "lots", "redis_password") if words not in str(found)] == []
    # What it would have been computed from is not known.
    assert "memory:" not in str(found)


def test_what_needs_no_wrong_value_is_computed_all_the_same() -> None:
    found = findings(host(celery_worker_task_timeout="soon", celery_worker_concurrency=900))

    assert [words for words in ("soon", "memory:", "postgresql_max_connections") if words not in str(found)] == []


def test_the_same_finding_on_several_hosts_is_one() -> None:
    (found,) = findings(host(flower_port=0), host(flower_port=0))

    assert found.startswith("one, two: flower_port 0")


def test_what_refers_to_a_roles_own_variables_is_left_to_the_role() -> None:
    of_role = StrictUndefined(name="postgresql_memory_mb")

    assert findings(host(postgresql_shared_buffers_mb=of_role, postgresql_settings={"x": [of_role]})) == []


def test_a_version_of_postgresql_that_is_there_already_can_be_used() -> None:
    assert findings(host(postgresql_version=13, report={"has_cluster": True})) == []


def test_a_cluster_that_holds_the_data_is_never_to_be_stopped() -> None:
    listeners = {"5432": "postgresql@15-main.service"}
    debian_13 = {"ports": {"5432": "postgresql@17-main.service"}, "postgresql_brought": 17}

    # Ours, whether it runs or has been stopped already
    for report in ({"listeners": listeners, "left_behind": ["15"]}, {"left_behind": ["15"]}):
        (found,) = findings(host(report=report, values=debian_13))
        assert "the site's data is in the cluster 15/main" in found
        assert "postgresql_version: 15" in found
        assert "postgresql-upgrade.yml" in found

    # Perhaps ours
    (found,) = findings(host(report={"listeners": listeners}, values=debian_13))
    assert "postgresql@15-main.service: if that cluster holds the site's data, keep its version" in found
    assert "postgresql_version: 15" in found
    assert "stop" not in found


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
    found = findings(host(), groups={**GROUPS, "log_collection": ["one", "two"]})

    assert "group log_collection has 2 hosts" in found[0]


def test_several_hosts_of_redis_are_alike_and_an_odd_number() -> None:
    # Given a run that leaves out the third host
    groups = {**GROUPS, "redis": ["one", "two", "three"]}
    known = {"redis_replication_password": "among-them", "redis_sentinel_password": "of-the-sentinels"}
    one = host(**known)
    assert findings(one, one, groups=groups) == []
    (found,) = findings(one, one, groups={**groups, "redis": ["one", "two"]})
    assert "group redis has 2 hosts" in found
    # Both passwords are needed as soon as there are several
    assert [finding.split(" is not set")[0] for finding in findings(host(), host(), groups=groups)] == [*known]
    other_port = host(redis_instances=[{"name": "broker", "port": 6390}], **known)
    (found,) = findings(one, other_port, groups=groups)
    assert "redis_instances differ" in found
    assert "two: broker 6390" in found
    (found,) = findings(one, host(facts={"distribution_major_version": "13"}, **known), groups=groups)
    assert "different releases of Debian (one: Debian 12, two: Debian 13)" in found


def test_backups_go_to_one_host_with_the_release_of_postgresqls() -> None:
    keeper = host(backup_passphrase="of-the-backups", tls_ca_passphrase="of-the-authority")
    server = host(tls_ca_passphrase="of-the-authority")
    groups = {**GROUPS, "backup": ["two"]}
    assert findings(server, keeper, groups=groups) == []
    (found,) = findings(server, keeper | {"backup_passphrase": ""}, groups=groups)
    assert found.startswith("backup_passphrase is not set")
    newer = host(
        facts={"distribution_major_version": "13"}, tls_ca_passphrase="of-the-authority", backup_passphrase="x"
    )
    (found,) = findings(server, newer, groups=groups)
    assert "two: ansible_facts.distribution is Debian 13, but one" in found
    together = findings(keeper, keeper, groups={**GROUPS, "backup": ["one", "two"]})
    assert [
        words
        for words in ("group backup has 2 hosts", "one is in the group postgresql too")
        if words not in "\n".join(together)
    ] == []
    assert len(together) == 2


COPY = {
    "values": {"ports": {"5432": "patroni.service"}, "site_postgresql_tls": True},
    "tls_ca_passphrase": "of-the-key",
}
SEVERAL = {**GROUPS, "postgresql": ["one", "two", "three"]}


def test_three_servers_of_postgresql_are_fine_also_where_one_stood_alone() -> None:
    alone = host(**COPY, report={"listeners": {"5432": "postgresql@15-main.service"}})
    assert findings(alone, host(**COPY), groups=SEVERAL) == []


@pytest.mark.parametrize(
    ("changed", "groups", "said"),
    [
        pytest.param({}, {**GROUPS, "postgresql": ["one", "two"]}, ["2 hosts", "majority", "three"], id="two"),
        pytest.param({}, {**GROUPS, "postgresql": [*"1234"]}, ["4 hosts", "majority"], id="four"),
        pytest.param(
            {"postgresql_version": 17, "report": {"has_cluster": True}},
            SEVERAL,
            ["17 on one", "15 on two"],
            id="versions",
        ),
        pytest.param(
            {"values": {**COPY["values"], "site_postgresql_tls": False}}, SEVERAL, ["site_postgresql_tls"], id="TLS"
        ),
        pytest.param({"report": {"listeners": {"5432": "postgresql@14-main.service"}}}, SEVERAL, ["5432"], id="port"),
        pytest.param(
            {"postgresql_replication_password": ""}, SEVERAL, ["postgresql_replication_password"], id="secret"
        ),
    ],
)
def test_what_keeps_several_servers_of_postgresql_from_being_one(
    changed: dict[str, Any], groups: dict[str, Any], said: list[str]
) -> None:
    (found,) = findings(host(**{**COPY, **changed}), host(**COPY), groups=groups)
    assert [words for words in said if words not in found] == []


def test_a_server_that_was_one_of_several_is_not_simply_alone() -> None:
    (found,) = findings(host(report={"listeners": {"5432": "patroni.service"}}))
    assert "from three hosts to one as docs/high-availability.md says" in found


def test_one_server_needs_no_password_of_copies() -> None:
    assert findings(host(postgresql_replication_password=""), host(postgresql_replication_password="")) == []


def test_all_findings_come_at_once() -> None:
    found = findings(host(facts={"distribution": "Ubuntu"}, redis_password="", postgresql_max_connections=1))

    assert len(found) == 3


def test_the_port_of_an_instance_that_runs_already_is_its_own() -> None:
    assert findings(host(report={"listeners": {"6379": "redis-server@broker.service"}})) == []


@pytest.mark.parametrize(("limit", "megabytes"), [("512mb", 512), ("2gb", 2048), ("1048576", 1), ("0", 0)])
def test_memory_is_read_as_redis_reads_it(limit: str, megabytes: int) -> None:
    one = preflight.Host("one", host(redis_maxmemory=limit), GROUPS)

    assert list(preflight.redis_memory(one)) == [megabytes]


@pytest.mark.parametrize(("days", "is_found"), [(0, False), (2, True)])
def test_an_authority_that_ends_soon_is_found(tmp_path: Path, days: int, is_found: bool) -> None:
    Authority(tmp_path).certificate.rename(tmp_path / "ca.crt")  # of one day
    encrypted = {
        "values": {"site_redis_tls": True},
        "tls_ca_passphrase": "of-the-authority",
        "flower_password": "of-flower",
    }
    found = findings(host(**encrypted, tls_directory=str(tmp_path), tls_renew_before_days=days))

    assert bool(found) == is_found
    assert all(str(tmp_path) in finding and "move ca.crt and ca.key away" in finding for finding in found)


@pytest.mark.parametrize(("days", "is_found"), [(1, False), (-1, True)])
def test_a_certificate_that_was_brought_and_has_ended_is_found(tmp_path: Path, days: int, is_found: bool) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("redis", "one", timedelta(days=days))
    brought = {
        "tls_ca_file": str(authority.certificate),
        "tls_redis_certificate_file": str(files.certificate),
        "tls_redis_key_file": str(files.key),
    }
    found = findings(host(values={"site_redis_tls": True}, **brought))

    assert bool(found) == is_found
    assert all(f"tls_redis_certificate_file {files.certificate} ended on" in finding for finding in found)


WATCHED: dict[str, Any] = {
    "redis_monitoring_password": "of-monitoring",
    "tls_ca_passphrase": "of-the-authority",
    "flower_password": "of-flower",
}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param({"monitoring_webhook_url": "https://x/"}, [], id="a webhook"),
        pytest.param({"monitoring_server": False}, [], id="a Prometheus of one's own"),
        pytest.param({}, ["one: monitoring_mail_to and monitoring_webhook_url are not set"], id="nobody is told"),
        pytest.param(
            {"monitoring_mail_to": "ops@x"},
            ["one: monitoring_mail_from is not set", "one: monitoring_smtp_server is not set"],
            id="half of what mail needs",
        ),
        pytest.param(
            {"monitoring_server": False, "redis_monitoring_password": ""},
            ["redis_monitoring_password is not set: ./manage.sh secrets init"],
            id="no password for the exporter of Redis",
        ),
        pytest.param(
            {"monitoring_server": False, "tls_ca_passphrase": ""},
            ["one: tls_ca_passphrase is not set"],
            id="no authority for the certificates of exporters",
        ),
    ],
)
def test_what_a_site_that_is_watched_needs(variables: dict[str, Any], said: list[str]) -> None:
    defaults = {"monitoring_server": True, "monitoring_mail_to": "", "monitoring_webhook_url": ""}
    one = host(_preflight_defaults_monitoring=defaults, **WATCHED | variables)
    found = findings(one, host(**WATCHED), groups=GROUPS | {"monitoring": ["one"], "exporter": ["one"]})
    assert len(found) == len(said)
    assert [words for words in said if words not in "\n".join(found)] == []


def test_prometheus_needs_an_exporter_on_its_own_host() -> None:
    found = findings(host(**WATCHED), host(**WATCHED), groups=GROUPS | {"monitoring": ["elsewhere"]})
    assert [finding for finding in found if "elsewhere" in finding] == [
        "group monitoring: elsewhere is not in the group exporter, and Prometheus scrapes the exporter of its own "
        "host: put elsewhere into the group exporter too"
    ]


def test_the_hosts_of_an_application_need_its_passwords() -> None:
    groups = GROUPS | {"applications": ["app1"]}
    assert [finding.split(" is not set")[0] for finding in findings(host(), groups=groups)] == [
        "redis_application_password"
    ]
    assert findings(host(redis_application_password="of-an-application"), groups=groups) == []
    assert findings(host(), groups=GROUPS | {"applications": []}) == []
