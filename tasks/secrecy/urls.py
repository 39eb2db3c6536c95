"""URLs of Redis, PostgreSQL and other services: makes them,
checks that clients read them right, and finds secrets in them.

A password often has a character that has a meaning in a URL and should have been escaped. Libraries that read such a
URL fail with a piece of the password in the error, or connect to another host; so each URL is checked here first.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)
# Only a machine makes words of this length in a path, so they may be secret.
_LONG_WORD = 16

_HOST = r"(?P<host>\[[0-9a-fA-F:.]+(?:%\w+)?\]|[\w.-]*)(?::(?P<port>[0-9]{1,5}))?"
_ANY_HOST = re.sub(r"\?P<\w+>", "?:", _HOST)
_MAX_PORT = 65_535
# URLs that redis-py and kombu read right. They split with urlsplit: the last @ before a / ? or # ends the login.
_REDIS = re.compile(rf"rediss?://(?:[^/?#\[\]]*@)?{_HOST}(?:/[^@#?]*)?(?:\?[^@#]*)?")
# URLs that SQLAlchemy reads right: the first @ ends the login, and a password may have a /. libpq also reads several
# servers there, which SQLAlchemy does not.
_POSTGRESQL = re.compile(
    rf"postgres(?:ql)?(?:\+psycopg2)?://(?P<login>[^@:/]*(?::[^@]*)?@)?(?P<servers>{_ANY_HOST}(?:,{_ANY_HOST})*)"
    r"(?P<database>/[^@?]*)?(?:\?(?P<query>[^@]*))?"
)
_POSTGRESQL_PORT = 5432
# With several servers, a session is wanted on the one that takes writes.
_PRIMARY = ("read-write", "primary")

_WRITE_AS_CODES = (
    "cannot be read as it is meant: in the user name and the password, write each sign that is neither a letter nor "
    "a digit as % and its code, such as %40 for @"
)


class PostgresqlServer(NamedTuple):
    """A server of PostgreSQL: its name, its address (IPv6 without brackets) or the folder of its socket; its port."""

    host: str
    port: int


def checked_redis_url(url: str) -> str:
    """Return the URL. Raises ValueError, which repeats no part
    of the URL, if clients of Redis would misread the URL."""
    if not re.match(r"rediss?://[^;]*$", url):
        raise ValueError("must be one URL that begins with redis:// or rediss://")
    if not (found := _REDIS.fullmatch(url)):
        raise ValueError(_WRITE_AS_CODES)
    _check_server(found)
    return url


def checked_postgresql_url(url: str) -> str:
    """The URL with the name of the driver (postgresql+psycopg2://),
    which SQLAlchemy would otherwise choose by its version.

    Several servers, one of which is the primary, may be written as libpq and as SQLAlchemy write them. They are
    returned in the one form that both read: ?host=one,two,three&port=5432,5432,5432&target_session_attrs=read-write

    Raises ValueError, which repeats no part of the URL, if SQLAlchemy would misread the URL.
    """
    if not re.match(r"postgres(ql)?(\+psycopg2)?://", url):
        raise ValueError("must begin with postgresql:// or postgresql+psycopg2://")
    if not (found := _POSTGRESQL.fullmatch(url)):
        raise ValueError(_WRITE_AS_CODES)
    servers = list(_servers(found))
    if len(servers) == 1:
        return f"postgresql+psycopg2://{url.partition('://')[2]}"
    place = f"{found['login'] or ''}{found['database'] or '/'}"
    return f"postgresql+psycopg2://{place}?{_query(servers, found['query'] or '')}"


def postgresql_servers(url: str) -> tuple[PostgresqlServer, ...]:
    """The servers that a URL names, in their order; without a name, the host is empty (libpq takes a socket of its
    own then). Raises ValueError for what `checked_postgresql_url` refuses."""
    if not (found := _POSTGRESQL.fullmatch(url)):
        raise ValueError(_WRITE_AS_CODES)
    return tuple(_servers(found))


def _servers(found: re.Match[str]) -> Iterator[PostgresqlServer]:
    """The servers of a URL, each checked. Those in the query win over those before the database."""
    query = parse_qsl(found["query"] or "")
    named = [value for name, value in query if name == "host"]
    ports = [port for name, value in query if name == "port" for port in value.split(",")]
    if not named:
        named = found["servers"].split(",")
    elif len(named) == 1:
        named = named[0].split(",")
    if len(ports) not in (0, 1, len(named)):
        raise ValueError("must name one port for each host, or one port for all")
    for number, server in enumerate(named):
        yield _server(server, ports[number] if len(ports) > 1 else (ports or [""])[0], is_alone=len(named) == 1)


def _server(words: str, port: str, *, is_alone: bool) -> PostgresqlServer:
    """The server that these words name, with the port that is named apart from it, if any."""
    if words.startswith("/") and is_alone:
        return PostgresqlServer(words, int(port) if port.isascii() and port.isdigit() else _POSTGRESQL_PORT)
    bare = f"[{words}]" if words.count(":") > 1 and not words.startswith("[") else words
    both = f"{bare}:{port}" if port else bare
    if not (found := re.fullmatch(_HOST, both)) or not (found["host"] or is_alone):
        raise ValueError("must name each host by its name or address, with at most one port")
    _check_server(found)
    return PostgresqlServer(found["host"].strip("[]"), int(found["port"] or _POSTGRESQL_PORT))


def _query(servers: Sequence[PostgresqlServer], query: str) -> str:
    """The query of a URL with these servers, and with all else that is in `query`."""
    wanted = dict(parse_qsl(query)).get("target_session_attrs", _PRIMARY[0])
    if wanted not in _PRIMARY:
        raise ValueError(f"with several hosts, target_session_attrs must be {' or '.join(_PRIMARY)}")
    hosts, ports = (",".join(map(str, column)) for column in zip(*servers, strict=True))
    ours = urlencode({"host": hosts, "port": ports, "target_session_attrs": wanted}, safe=",:")
    others = [
        part
        for part in query.split("&")
        if part.partition("=")[0] not in ("", "host", "port", "target_session_attrs")
    ]
    return "&".join([ours, *others])


def checked_host(host: str) -> str:
    """The name or address of a server as it stands in a URL: an IPv6 address gets its brackets.

    Raises ValueError for what is neither a name nor an address.
    """
    in_url = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
    if not host or not (found := re.fullmatch(_HOST, in_url)) or found["port"]:
        raise ValueError("must be the name or the address of a server, without a port")
    _check_server(found)
    return in_url


def address(text: str, default_port: int) -> tuple[str, int]:
    """The host, without brackets, and the port of `host`, `host:port` or `[IPv6 address]:port`.

    Raises ValueError for what is neither.
    """
    found = re.fullmatch(_HOST, text)
    if not found or not found["host"]:
        raise ValueError("each must be a host, or a host and a port like redis1.example.org:26379")
    _check_server(found)
    return found["host"].strip("[]"), int(found["port"] or default_port)


def _check_server(found: re.Match[str]) -> None:
    """Raise ValueError for a host or a port at which clients fail before they try to connect."""
    host, port = found["host"], found["port"]
    if port and not 0 < int(port) <= _MAX_PORT:
        raise ValueError(f"the port must be a number from 1 to {_MAX_PORT}")
    try:
        if host.startswith("["):
            IPv6Address(host[1:-1])
        else:
            host.encode("idna")
    except ValueError:
        raise ValueError("the host must be the name or the address of a server") from None


def redis_url(host: str, port: int, username: str | None, password: str | None, database: int, *, tls: bool) -> str:
    """The URL of a database of Redis."""
    login = f"{quote(username or '', safe='')}:{quote(password, safe='')}@" if password else ""
    return f"{'rediss' if tls else 'redis'}://{login}{host}:{port}/{database}"


def with_database(url: str, database: int) -> str:
    """`url` itself when it names a database, else with `database` appended."""
    scheme, _, rest = url.partition("://")
    location, question, query = rest.partition("?")
    authority, _, path = location.partition("/")
    return f"{scheme}://{authority}/{path or database}{question}{query}"


def secrets_of_url(url: str, *, is_secret: bool = False) -> tuple[str, ...]:
    """The secrets in a URL: the password, and parameters with a name like "password". With `is_secret` (the whole URL
    is secret) everything but the host and ordinary words."""
    # Also find a password with characters at which another reader would end the password.
    between = unquote(url.partition("://")[2].rpartition("@")[0].partition(":")[2])
    try:
        parts = urlsplit(url)
        password = unquote(parts.password or "")
    except ValueError:
        return (between or url,)
    named = [value for name, value in parse_qsl(parts.query) if is_secret or _SECRET_NAME.search(name)]
    words = [parts.username or "", *parts.path.split("/"), *parts.query.split("&")] if is_secret else []
    made = [word for word in words if len(word) >= _LONG_WORD and "=" not in word.rstrip("=")]
    return tuple(filter(None, (password if "@" in parts.netloc else between, *named, *made)))
