"""URLs are read as they are meant, or refused without a piece of the password; what is secret in them is known."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import pytest
from kombu.utils.url import parse_url
from redis.connection import parse_url as redis_parse_url
from sqlalchemy import make_url

from tasks.secrecy.urls import checked_postgresql_url, checked_redis_url, secrets_of_url
from tasks.settings import ConfigurationError, load

SIGNS = "@:/?#[]%&=+$!'\"\\ ;,~^|"
UNQUOTED = [f"pw{first}x{second}y" for first, second in itertools.product(SIGNS, SIGNS)]
REDIS = "redis://:{}@127.0.0.1:6379/3"
POSTGRESQL = "postgresql+psycopg2://worker:{}@127.0.0.1:5432/mail?sslmode=require"


def is_taken(check: Callable[[str], str], url: str) -> bool:
    with suppress(ValueError):
        check(url)
        return True
    return False


def test_a_url_of_redis_is_read_as_it_is_meant_or_refused() -> None:
    taken = [password for password in UNQUOTED if is_taken(checked_redis_url, REDIS.format(password))]
    assert len(taken) > 50
    for password, url in [(p, REDIS.format(quote(p, safe=""))) for p in UNQUOTED] + [
        (p, REDIS.format(p)) for p in taken
    ]:
        checked_redis_url(url)
        read, kombus = redis_parse_url(url), parse_url(url)  # type: ignore[no-untyped-call]
        assert (read["host"], read["port"], read["password"], read["db"]) == ("127.0.0.1", 6379, password, 3)
        assert (kombus["hostname"], kombus["port"], kombus["password"]) == ("127.0.0.1", 6379, password)
        assert password in secrets_of_url(url)


def test_a_url_of_postgresql_is_read_as_it_is_meant_or_refused() -> None:
    taken = [password for password in UNQUOTED if is_taken(checked_postgresql_url, POSTGRESQL.format(password))]
    assert len(taken) > 50
    for password, url in [(p, POSTGRESQL.format(quote(p, safe=""))) for p in UNQUOTED] + [
        (p, POSTGRESQL.format(p)) for p in taken
    ]:
        checked_postgresql_url(url)
        read = make_url(url)
        assert (read.password, read.host, read.port, read.database) == (password, "127.0.0.1", 5432, "mail")
        assert password in secrets_of_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache.example", "redis://cache:6379", "rediss://app:pw@[::1]:6379/0?ssl_cert_reqs=required",
        "redis://:pw@10.0.0.1/", "redis://:p%40w@h_1:1/2?socket_timeout=5&ssl_ca_certs=/etc/a%40b.crt",
    ],
)  # fmt: skip
def test_usual_urls_of_redis_are_taken(url: str) -> None:
    assert checked_redis_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://worker@127.0.0.1:5432/mail", "postgresql+psycopg2://worker:p%2Fw@[::1]/mail",
        "postgresql+psycopg2://worker@/mail?host=/run/postgresql", "postgresql+psycopg2:///mail",
        "postgresql+psycopg2://w:pw@/mail?host=one:5432&host=two:5432&target_session_attrs=read-write",
    ],
)  # fmt: skip
def test_usual_urls_of_postgresql_are_taken(url: str) -> None:
    assert checked_postgresql_url(url) == url


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_url_of_postgresql_without_a_driver_gets_ours(scheme: str) -> None:
    assert checked_postgresql_url(f"{scheme}://w:p%2Fw@db/mail") == "postgresql+psycopg2://w:p%2Fw@db/mail"


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("REDIS_URL", "redis://:xqx:zjz/y@h:1/0"),
        ("REDIS_URL", "redis://:xqx[zjz@h:1/0"),
        ("CELERY_BROKER_URL", "redis://:1/xqx@h:1/0"),
        ("CELERY_RESULT_BACKEND", "rediss://:xqx#zjz@h/0"),
        ("DATABASE_URL", "postgresql+psycopg2://u:xqx@zjz:y@h:1/d"),
        ("DATABASE_URL", "postgresql+psycopg2://u:xqx@zjz@h/d"),
        ("DATABASE_URL", "postgresql+asyncpg://u:xqxzjz@h/d"),
        ("DATABASE_URL", "postgresql://u:xqx@zjz@h/d"),
        ("DATABASE_URL", "mysql://u:xqxzjz@h/d"),
        ("DATABASE_OWNER_URL", "postgresql+psycopg2://u:xqx@zjz@h/d"),
        ("DATABASE_OWNER_URL", "u:xqxzjz@h/d"),
        ("SPAM_API_URL", "https://u:xqx\u2100zjz@h/check"),
        ("SPAM_API_URL", "https://u:xqx[zjz@h/check"),
    ],
)
def test_a_url_that_cannot_be_read_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv("SPAM_API_ENABLED", "true")
    monkeypatch.setenv("SPAM_API_URL", "https://h/check")
    monkeypatch.setenv(variable, url)
    with pytest.raises(ConfigurationError, match=variable) as caught:
        load()
    assert [piece for piece in ("xqx", "zjz") if piece in str(caught.value)] == []
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "is_secret", "found"),
    [
        ("redis://:p%40ss@h:1/0?ssl_cert_reqs=required", False, ("p@ss",)),
        ("postgresql+psycopg2://u:a%2Fb@h/d", False, ("a/b",)),
        ("postgresql+psycopg2://u:a/b@h/d", False, ("a/b",)),
        ("postgresql://h/d?password=sample&sslmode=require", False, ("sample",)),
        ("https://u:pw@h/checkv2/0123456789abcdef0123?k=v1", True, ("pw", "v1", "0123456789abcdef0123")),
        ("https://0123456789abcdef@h/check", True, ("0123456789abcdef",)),
        ("https://h/check?0123456789abcdef&verbose", True, ("0123456789abcdef",)),
        ("https://h/check/0123456789abcde", True, ()),
        ("https://h/check/0123456789abcdef", False, ()),
        ("https://h:1/checkv2", True, ()),
        ("http://[x", False, ("http://[x",)),
    ],
)
def test_what_is_secret_in_a_url(url: str, is_secret: bool, found: tuple[str, ...]) -> None:
    assert secrets_of_url(url, is_secret=is_secret) == found


@pytest.mark.parametrize(
    "server", ["h:99999", "h:0", "h:65536", "[::1::2]:1", "[1.2]", "a..b", ".h", "x" * 64, "h:٣"]
)
@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "DATABASE_URL"])
def test_a_server_that_no_client_can_ask_for_is_refused(
    variable: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = "postgresql" if variable == "DATABASE_URL" else "redis"
    monkeypatch.setenv(variable, f"{scheme}://:secret@{server}/0")
    with pytest.raises(ConfigurationError, match=variable) as refusal:
        load()
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("host", ["::1::2", "a b", "h:1", "a/b", "user@h", "a..b", "x" * 64, "[::1]:1"])
@pytest.mark.parametrize("variable", ["REDIS_HOST", "REDIS_RESULT_HOST"])
def test_a_host_that_is_none_is_refused(variable: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, host)
    with pytest.raises(ConfigurationError, match=variable):
        load()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_of_redis_is_taken_with_and_without_brackets(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_HOST", host)
    found = redis_parse_url(load().redis.broker_url)  # type: ignore[no-untyped-call]
    assert (found["host"], found["port"]) == ("::1", 6379)
