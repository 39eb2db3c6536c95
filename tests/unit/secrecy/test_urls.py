"""URLs are read as they are meant, or refused without a piece of the password; what is secret in them is known."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import parse_qsl, quote

import pytest
from kombu.utils.url import parse_url
from psycopg2.extensions import parse_dsn
from redis.connection import parse_url as redis_parse_url
from sqlalchemy import make_url

from native.postgres import libpq
from tasks.secrecy.urls import checked_postgresql_url, checked_redis_url, postgresql_servers, secrets_of_url
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
        "postgresql+psycopg2://w:pw@/mail?host=one&port=5433", "postgresql+psycopg2://w:pw@/mail?host=one:5433",
        "postgresql+psycopg2://w:pw@/mail?host=one,two&port=5432,5433&target_session_attrs=primary&sslmode=require",
    ],
)  # fmt: skip
def test_usual_urls_of_postgresql_are_taken(url: str) -> None:
    assert checked_postgresql_url(url) == url


THREE = "/mail?host=one,two,three&port=1,5432,3&target_session_attrs=read-write"


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("postgresql+psycopg2://w:p%2Fw@/mail?host=one:1&host=two&host=three:3", THREE),
        ("postgresql://w:p%2Fw@one:1,two,three:3/mail", THREE),
        ("postgresql://w:p%2Fw@ignored/mail?host=one,two,three&port=1,5432,3&target_session_attrs=read-write", THREE),
        (
            "postgres://w:p%2Fw@/mail?sslmode=verify-full&host=one:5&host=two:6&target_session_attrs=primary"
            "&sslrootcert=%2Fetc%2Fa%20b",
            "/mail?host=one,two&port=5,6&target_session_attrs=primary&sslmode=verify-full&sslrootcert=%2Fetc%2Fa%20b",
        ),
        (
            "postgresql://w:p%2Fw@[2001:db8::1]:5,[2001:db8::2]:6/mail",
            "/mail?host=2001:db8::1,2001:db8::2&port=5,6&target_session_attrs=read-write",
        ),
        (
            "postgresql://w:p%2Fw@/mail?host=[::1]:5&host=[::2]",
            "/mail?host=::1,::2&port=5,5432&target_session_attrs=read-write",
        ),
        ("postgresql://w:p%2Fw@one,two?port=7", "/?host=one,two&port=7,7&target_session_attrs=read-write"),
    ],
)  # fmt: skip
def test_several_servers_of_postgresql_are_written_as_libpq_and_sqlalchemy_read_them(url: str, servers: str) -> None:
    checked = checked_postgresql_url(url)
    assert checked == f"postgresql+psycopg2://w:p%2Fw@{servers}"
    assert checked_postgresql_url(checked) == checked
    read = make_url(checked)
    _, options = read.get_dialect()().create_connect_args(read)
    of_libpq = parse_dsn(libpq(checked))
    for found in (options, of_libpq):
        assert (found["user"], found["password"]) == ("w", "p/w")
        both = zip(found["host"].split(","), map(int, found["port"].split(",")), strict=True)
        assert tuple(both) == postgresql_servers(url)
        assert found["target_session_attrs"] == dict(parse_qsl(servers))["target_session_attrs"]
        assert found.get("dbname") == (read.database or None)
        assert found.get("sslrootcert") == dict(parse_qsl(servers)).get("sslrootcert")
    assert secrets_of_url(url) == secrets_of_url(checked) == ("p/w",)


@pytest.mark.parametrize(
    "servers",
    [
        "one:1,two:99999/mail", "one,,two/mail", "/mail?host=one&host=a..b", "/mail?host=one,two&port=1,2,3",
        "/mail?host=one:1&host=two:2&port=5", "/mail?host=one:x&host=two", "/mail?host=/run/postgresql&host=one",
        "/mail?host=one,two&target_session_attrs=any", "/mail?host=one,two&target_session_attrs=standby",
        "/mail?host=one,two&port=1,x", "/mail?host=one:1:2&host=two", "[::1::2],one/mail",
    ],
)  # fmt: skip
@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_OWNER_URL"])
def test_several_servers_that_cannot_be_meant_are_refused(
    variable: str, servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"postgresql+psycopg2://w:secret@{servers}")
    with pytest.raises(ConfigurationError, match=variable) as refusal:
        load()
    assert "secret" not in str(refusal.value)


def test_the_servers_of_a_url_are_known_by_name_and_port() -> None:
    assert postgresql_servers("postgresql://w@db/mail") == (("db", 5432),)
    assert postgresql_servers("postgresql://w@[::1]:6/mail") == (("::1", 6),)
    assert postgresql_servers("postgresql:///mail") == (("", 5432),)
    assert postgresql_servers("postgresql://w@/mail?host=/run/postgresql&port=6") == (("/run/postgresql", 6),)


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
