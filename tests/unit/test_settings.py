"""The environment, read and checked."""

import ssl
from ipaddress import ip_network

import pytest
from cryptography.fernet import Fernet

from tasks.celery_app import create_celery_app
from tasks.settings import ConfigurationError, load

AWKWARD = "@:/#%$ \"'\\ ü"


_GROUPS = ("REDIS", "CELERY", "DATABASE", "SYNC", "TASK", "CREDENTIAL", "SSL", "MAIL", "LOG", "SPAM")


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(
            ("REDIS", "CELERY", "DATABASE", "SYNC", "TASK", "CREDENTIAL", "SSL", "MAIL", "LOG", "SPAM")
        ):
            monkeypatch.delenv(name)


def test_defaults_fit_each_other() -> None:
    settings = load()
    assert settings.redis.broker_url == "redis://127.0.0.1:6379/0"
    assert settings.redis.result_backend == "redis://127.0.0.1:6379/1"
    assert settings.worker.task_time_limit == 300


def test_a_password_with_any_character_survives_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    from kombu.utils.url import url_to_parts

    monkeypatch.setenv("REDIS_PASSWORD", AWKWARD)
    assert url_to_parts(load().redis.broker_url).password == AWKWARD


@pytest.mark.parametrize(
    ("url", "broker", "result"),
    [
        ("redis://h:1", "redis://h:1/0", "redis://h:1/1"),
        ("redis://h:1/", "redis://h:1/0", "redis://h:1/1"),
        ("rediss://:p@h:1?ssl_cert_reqs=required", "rediss://:p@h:1/0?ssl_cert_reqs=required", None),
        ("redis://h:1/5", "redis://h:1/5", "redis://h:1/5"),
    ],
)
def test_one_url_serves_broker_and_results(monkeypatch: pytest.MonkeyPatch, url, broker, result) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    redis = load().redis
    assert redis.broker_url == broker
    assert result is None or redis.result_backend == result


@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL"])
@pytest.mark.parametrize(
    "url", ["amqp://h", "sentinel://h:1", "redis+socket:///run/redis", "redis://a;redis://b", "h:1"]
)
def test_the_broker_is_one_redis(monkeypatch: pytest.MonkeyPatch, variable: str, url: str) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(
        ConfigurationError, match=f"{variable}: must be one URL that begins with redis:// or rediss://"
    ):
        load()


@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL"])
def test_a_broker_that_is_to_be_encrypted_is_verified(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Celery reads CELERY_BROKER_URL by itself, too, and would take it as it is."""
    monkeypatch.setenv(variable, "rediss://:secret@h:1/0")
    app = create_celery_app(load)
    for connection in (app.connection_for_read(), app.connection_for_write()):
        assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        assert connection.as_uri() == "rediss://:**@h:1/0"


def test_results_may_live_on_another_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://broker:1/0")
    monkeypatch.setenv("REDIS_RESULT_HOST", "results")
    monkeypatch.setenv("REDIS_RESULT_USE_SSL", "true")
    assert load().redis.result_backend == "rediss://results:6379/1?ssl_cert_reqs=required"


@pytest.mark.parametrize("address", ["::1", "[::1]", "10.1.2.3", "localhost"])
def test_an_address_to_listen_on_has_no_brackets(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("PROMETHEUS_ADDRESS", address)
    assert load().monitoring.address == address.strip("[]")


def test_all_mistakes_are_named_at_once_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "secret-port")
    monkeypatch.setenv("CELERYD_CONCURRENCY", "none")
    monkeypatch.setenv("SYNC_BATCH_SIZE", "0")
    with pytest.raises(ConfigurationError) as refusal:
        load()
    for name in ("REDIS_PORT", "CELERYD_CONCURRENCY", "SYNC_BATCH_SIZE"):
        assert name in str(refusal.value)
    assert "secret-port" not in str(refusal.value)


def test_networks_are_read_and_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_ALLOWED_NETWORKS", "10.1.0.0/16, fd00:1::/64,127.0.0.1=1143, ::1=1025, ::1=0993")
    mail = load().mail
    everywhere = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/64"))
    assert mail.networks_at(6379) == everywhere
    assert mail.networks_at(1143) == (*everywhere, ip_network("127.0.0.1/32"))
    assert mail.networks_at(1025) == mail.networks_at(993) == (*everywhere, ip_network("::1/128"))
    for wrong in (
        "10.1.2.3/8",
        "=143",
        "10.1.2.3=",
        "10.1.2.3=0",
        "10.1.2.3=65536",
        "10.1.2.3=-1",
        "10.1.2.3=143=",
        "x",
    ):
        monkeypatch.setenv("MAIL_ALLOWED_NETWORKS", f"10.1.0.0/16, {wrong}")
        with pytest.raises(ConfigurationError, match="MAIL_ALLOWED_NETWORKS"):
            load()


@pytest.mark.parametrize(
    "variables",
    [
        {"CELERY_TASK_SOFT_TIME_LIMIT": "300"},
        {"CELERY_VISIBILITY_TIMEOUT": "900"},
        {"TASK_TIMEOUT": "1200"},
    ],
)
def test_limits_that_contradict_each_other_are_refused(monkeypatch: pytest.MonkeyPatch, variables) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=next(iter(variables))):
        load()


def test_secrets_are_not_shown_by_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Fernet.generate_key().decode()
    monkeypatch.setenv("REDIS_PASSWORD", "sample-secret")
    monkeypatch.setenv("CREDENTIAL_ENCRYPTION_KEY", key)
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg2://u:sample-secret@h/d")
    assert "sample-secret" not in repr(load())
    assert key not in repr(load())


BROKEN_KEYS = ["sample-secret", "c2hvcnQ=", "x" * 44, "{good} {good}", "{good},short"]


@pytest.mark.parametrize("broken", BROKEN_KEYS)
def test_a_malformed_key_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    good = Fernet.generate_key().decode()
    monkeypatch.setenv("CREDENTIAL_ENCRYPTION_KEY", broken.format(good=good))
    with pytest.raises(ConfigurationError, match="CREDENTIAL_ENCRYPTION_KEY") as refusal:
        load()
    assert good not in str(refusal.value)
    assert broken not in str(refusal.value)


def test_a_user_name_for_redis_and_one_for_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_USERNAME", "app:1")
    monkeypatch.setenv("REDIS_PASSWORD", "p@ss")
    monkeypatch.setenv("REDIS_RESULT_USERNAME", "results")
    redis = load().redis
    assert redis.broker_url == "redis://app%3A1:p%40ss@127.0.0.1:6379/0"
    assert redis.result_backend == "redis://results:p%40ss@127.0.0.1:6379/1"


def test_redis_is_verified_by_the_authority_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from kombu import Connection

    from tasks.celery_app import create_celery_app

    monkeypatch.setenv("REDIS_USE_SSL", "true")
    monkeypatch.setenv("REDIS_SSL_CA_CERTS", "/etc/metabuilder/tls/ca 1.crt")
    wanted = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/etc/metabuilder/tls/ca 1.crt"}
    app = create_celery_app(load)
    # Celery's own connections, and one that knows nothing but the URL
    assert app.connection_for_write().ssl == wanted
    assert Connection(load().redis.broker_url).ssl == wanted
    assert app.backend.connparams.items() >= wanted.items()


def test_authserv_ids_belong_to_mail_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().spam.trusted_authserv_ids == {"imap.gmail.com": {"mx.google.com"}}
    monkeypatch.setenv("SPAM_TRUSTED_AUTHSERV_IDS", " IMAP.a.example = MX1.a.example, imap.a.example=mx2.a,b=c ")
    assert load().spam.trusted_authserv_ids == {"imap.a.example": {"mx1.a.example", "mx2.a"}, "b": {"c"}}


@pytest.mark.parametrize(
    ("name", "value"),
    [("SPAM_TRUSTED_AUTHSERV_IDS", "mx.example.org"), ("SPAM_TRUSTED_AUTHSERV_IDS", "a="),
     ("SPAM_SCORE_THRESHOLD", "5.0"), ("SPAM_SCORE_THRESHOLD", "0"), ("SPAM_ENGINE_TIMEOUT", "3600")],
)  # fmt: skip
def test_spam_settings_that_make_no_sense(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        load()


@pytest.mark.parametrize(
    "url", ["https://api.example.org/check", "http://127.0.0.1:11333/checkv2", "http://10.0.0.7/x"]
)
def test_messages_go_to_spam_services_encrypted_or_within(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SPAM_API_ENABLED", "true")
    monkeypatch.setenv("SPAM_API_URL", url)
    assert load().spam.has_engine


@pytest.mark.parametrize("url", [None, "http://api.example.org/", "http://8.8.8.8/", "ftp://127.0.0.1/", "x"])
def test_messages_go_nowhere_else(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    monkeypatch.setenv("SPAM_API_ENABLED", "true")
    if url:
        monkeypatch.setenv("SPAM_API_URL", url)
    with pytest.raises(ConfigurationError, match="SPAM_API_URL") as error:
        load()
    assert url in (None, "x") or url not in str(error.value)


def test_sentinels_stand_in_the_place_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_SENTINELS", "redis1.example.org, redis2.example.org:26380,[2001:db8::5]:1")
    monkeypatch.setenv("REDIS_SENTINEL_PASSWORD", "of-the-sentinels")
    monkeypatch.setenv("REDIS_RESULT_MASTER_NAME", "results")
    monkeypatch.setenv("REDIS_PASSWORD", AWKWARD)
    monkeypatch.setenv("REDIS_USE_SSL", "true")
    monkeypatch.setenv("REDIS_HOST", "not-used")
    settings = load()
    broker, results = settings.redis.broker, settings.redis.results
    assert broker.sentinels
    assert results.sentinels
    assert broker.sentinels.addresses == (
        ("redis1.example.org", 26379),
        ("redis2.example.org", 26380),
        ("2001:db8::5", 1),
    )
    assert (broker.sentinels.master_name, results.sentinels.master_name) == ("broker", "results")
    assert broker.sentinels.tls == {"ssl_cert_reqs": "required"}
    assert broker.url.endswith("@broker:6379/0?ssl_cert_reqs=required")
    assert results.url.endswith("@results:6379/1?ssl_cert_reqs=required")
    assert broker.variable == results.variable == "REDIS_SENTINELS"

    # Nowhere in what the application shows of its configuration, which workers answer to whoever asks.
    assert "of-the-sentinels" in settings.secrets.secrets
    assert "of-the-sentinels" not in repr(create_celery_app(load).conf.table())
    monkeypatch.delenv("REDIS_RESULT_MASTER_NAME")
    assert load().redis.results.sentinels == load().redis.broker.sentinels


def test_without_sentinels_redis_is_where_the_address_says() -> None:
    redis = load().redis
    assert redis.broker.sentinels is None
    assert redis.results.sentinels is None


@pytest.mark.parametrize("sentinels", ["h:0", "h:99999", "redis://h:1", "h:1:2", "a b", ":1", "[::1"])
def test_a_sentinel_has_a_host_and_perhaps_a_port(monkeypatch: pytest.MonkeyPatch, sentinels: str) -> None:
    monkeypatch.setenv("REDIS_SENTINELS", f"redis1:1,{sentinels}")
    with pytest.raises(ConfigurationError, match="REDIS_SENTINELS"):
        load()


@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"])
def test_redis_is_found_in_one_way(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("REDIS_SENTINELS", "redis1:1")
    monkeypatch.setenv(variable, "redis://:sample-secret@h:1/0")
    with pytest.raises(
        ConfigurationError, match=f"REDIS_SENTINELS is set, and so is {variable}: remove one"
    ) as raised:
        load()
    assert "sample-secret" not in str(raised.value)
