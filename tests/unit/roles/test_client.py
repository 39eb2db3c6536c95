"""What the application's own hosts connect with, and who lets them in."""

import itertools

import pytest
import yaml
from jinja2 import Environment, StrictUndefined
from psycopg2.extensions import parse_dsn

from tasks.settings import CredentialSettings, DatabaseSettings, MailSettings, RedisSettings
from tests.unit.roles.plugins import ROLES, load

# Of what env files, URLs and configuration files give a meaning to.
PASSWORD = "of-the-application @:/#%$\"'?&"
PUBLIC_KEY = "0123abcd:c2FtcGxlIGtleSwga25vd24gdG8gZXZlcnlib2R5ISE="
SITE = {
    "site_postgresql_host": "db1.example.org",
    "site_postgresql_port": 5432,
    "site_postgresql_tls": True,
    "_site_postgresql_is_replicated": False,
    "_site_postgresql_servers": ["db1", "db2", "db3"],
    "_site_postgresql_addresses": ["192.0.2.1", "db2.example.org", "2001:db8::3"],
    "site_redis_host": "2001:db8::5",
    "site_redis_port": 6379,
    "site_redis_result_host": "2001:db8::5",
    "site_redis_result_port": 6379,
    "site_redis_sentinels": "",
    "_site_redis_master_name": "",
    "_site_redis_result_master_name": "",
    "site_redis_tls": True,
    "site_tls_ca_path": "/etc/metabuilder/tls/ca.crt",
    "postgresql_application_password": PASSWORD,
    "redis_application_password": PASSWORD,
    "__client_public_key": {"stdout": PUBLIC_KEY},
    "application_mail_allowed_networks": ["10.0.0.0/8", "fd00::/8"],
    "application_webhook_allow_http": False,
}
WITHOUT_TLS = {"site_postgresql_tls": False, "site_redis_tls": False}
WITH_RESULTS = {"site_redis_result_port": "6380"}  # a text where it comes from a template


def environment() -> Environment:
    """Jinja with the site's filters, and Ansible's that are used."""
    made = Environment(undefined=StrictUndefined, trim_blocks=True)
    for file in ("quoting", "addresses"):
        made.filters |= load(f"site/filter_plugins/{file}.py").FilterModule().filters()
    made.filters["bool"] = bool
    made.filters["product"] = lambda values, others: list(itertools.product(values, others))
    # Of no values, or of pairs.
    made.filters["map"] = lambda values, *name: [value[0] for value in values] if name == ("first",) else list(values)
    made.filters["difference"] = lambda values, others: [value for value in values if value not in others]
    return made


def client_variables(**changed: object) -> dict[str, str]:
    """The variables of client.env, as the role computes them."""
    made, given = yaml.safe_load((ROLES / "client/vars/main.yml").read_text()), {**SITE, **changed}
    made |= {
        "_site_postgresql_several": yaml.safe_load((ROLES / "site/vars/main.yml").read_text())[
            "_site_postgresql_several"
        ]
    }
    for name in ("_client_redis", "_client_redis_options", "_client_single_server", "_site_postgresql_several"):
        given[name] = environment().from_string(made[name]).render(given)
    return {name: environment().from_string(text).render(given) for name, text in made["_client_variables"].items()}


def test_an_application_finds_the_server_that_takes_writes_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    url = client_variables(_site_postgresql_is_replicated=True)["DATABASE_URL"]
    read_by_libpq = parse_dsn(url)
    assert read_by_libpq["host"] == "192.0.2.1,db2.example.org,2001:db8::3"
    assert (read_by_libpq["port"], read_by_libpq["target_session_attrs"]) == ("5432,5432,5432", "read-write")
    assert (read_by_libpq["sslmode"], read_by_libpq["password"]) == ("verify-full", PASSWORD)
    monkeypatch.setenv("DATABASE_URL", url)
    assert parse_dsn(DatabaseSettings().url.get_secret_value().replace("+psycopg2", "")) == read_by_libpq


@pytest.mark.parametrize("tls", [{}, WITHOUT_TLS])
@pytest.mark.parametrize("results", [{}, WITH_RESULTS])
def test_the_settings_read_what_the_application_gets(
    tls: dict[str, bool], results: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = client_variables(**tls, **results)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert [str(allowed.network) for allowed in MailSettings().allowed_networks] == ["10.0.0.0/8", "fd00::/8"]

    redis, database = RedisSettings(), DatabaseSettings()
    assert CredentialSettings().public_key == PUBLIC_KEY

    login = "metabuilder_application:of-the-application%20%40%3A%2F%23%25%24%22%27%3F%26"
    server = f"redis{'' if tls else 's'}://{login}@[2001:db8::5]"
    options = "" if tls else "?ssl_cert_reqs=required&ssl_ca_certs=/etc/metabuilder/tls/ca.crt"
    assert redis.broker_url == f"{server}:6379/0{options}"
    assert redis.result_backend == f"{server}:{results.get('site_redis_result_port', 6379)}/1{options}"
    assert ("CELERY_RESULT_BACKEND" in {name for name, value in variables.items() if value}) == bool(results)
    role = login.replace("metabuilder_application", "metabuilder")
    verified = "" if tls else "?sslmode=verify-full&sslrootcert=/etc/metabuilder/tls/ca.crt"
    assert database.url.get_secret_value() == (
        f"postgresql+psycopg2://{role}@db1.example.org:5432/metabuilder{verified}"
    )


@pytest.mark.parametrize("tls", [{}, WITHOUT_TLS])
def test_an_application_finds_a_redis_with_sentinels_by_the_names_of_its_masters(
    tls: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "site_redis_sentinels": "redis1.example.org:26379,redis2.example.org:26380",
        "redis_sentinel_password": PASSWORD,
        "_site_redis_master_name": "broker",
        "_site_redis_result_master_name": "results",
    }
    for name, value in client_variables(**given, **tls).items():
        monkeypatch.setenv(name, value)

    redis = RedisSettings()
    for place, name in ((redis.broker, "broker"), (redis.results, "results")):
        assert place.sentinels
        assert place.sentinels.addresses == (("redis1.example.org", 26379), ("redis2.example.org", 26380))
        assert place.sentinels.master_name == name
        assert place.sentinels.password
        assert place.sentinels.password.get_secret_value() == PASSWORD
        assert place.url.startswith("redis://" if tls else "rediss://metabuilder_application:")
        assert bool(place.sentinels.tls) == (not tls)
    assert redis.password
    assert redis.password.get_secret_value() == PASSWORD


def test_postgresql_lets_an_application_host_in_as_the_application_alone() -> None:
    template = (ROLES / "postgresql/templates/etc/postgresql/pg_hba.conf").read_text()
    roles = {"application": "metabuilder", "worker": "metabuilder_worker", "owner": "metabuilder_owner"}
    rendered = (
        environment()
        .from_string(template)
        .render(
            ansible_managed="",
            postgresql_database="metabuilder",
            _site_is_monitored=False,
            site_postgresql_tls=True,
            _site_postgresql_is_replicated=False,
            _site_database_addresses=["192.0.2.1"],
            _site_client_addresses=["192.0.2.1", "192.0.2.9", "2001:db8::9"],
            postgresql_hba_entries=[],
            _postgresql_owner_hosts=[],
            hostvars={},
            **{f"postgresql_{name}_role": role for name, role in roles.items()},
        )
    )
    lines = [line.split() for line in rendered.splitlines() if line.startswith("host")]
    assert {(line[0], line[-1]) for line in lines} == {("hostssl", "scram-sha-256")}
    allowed = {address: [user for _, _, user, where, _ in lines if where == address] for *_, address, _ in lines}
    assert allowed["192.0.2.9/32"] == allowed["2001:db8::9/128"] == ["metabuilder"]
    assert allowed["192.0.2.1/32"] == ["metabuilder,metabuilder_worker"]  # a worker's host is none the less one
