"""URLs of Redis, PostgreSQL and other services: how they are made, if they can be read, and what in them is secret.

A password often has a sign that means something in a URL, and is written as it is. Libraries that read such a URL
fail with a piece of the password in their words, or connect to another host; so each URL is judged here first.
"""

import re
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)
# No word of a path is as long that was not made by a machine.
_LONG_WORD = 16

_HOST = r"(?:\[[0-9a-fA-F:.]+(?:%\w+)?\]|[\w.-]*)(?::\d{1,5})?"
# As redis-py and kombu take it apart (urlsplit): the last @ before a / ? or # ends the login.
_REDIS = re.compile(rf"rediss?://(?:[^/?#\[\]]*@)?{_HOST}(?:/[^@#?]*)?(?:\?[^@#]*)?")
# As SQLAlchemy does: the first @ ends the login, and a password may have a /.
_POSTGRESQL = re.compile(rf"postgres(?:ql)?(?:\+psycopg2)?://(?:[^@:/]*(?::[^@]*)?@)?{_HOST}(?:/[^@?]*)?(?:\?[^@]*)?")

_WRITE_AS_CODES = (
    "cannot be read as it is meant: in the user name and the password, write each sign that is neither a letter nor "
    "a digit as % and its code, such as %40 for @"
)


def checked_redis_url(url: str) -> str:
    """The URL itself. Raises ValueError, without a part of the URL, where the clients of Redis would misread it."""
    if not re.match(r"rediss?://[^;]*$", url):
        raise ValueError("must be one URL that begins with redis:// or rediss://")
    if not _REDIS.fullmatch(url):
        raise ValueError(_WRITE_AS_CODES)
    return url


def checked_postgresql_url(url: str) -> str:
    """The URL with the driver's name, whose place SQLAlchemy else fills by its version: postgresql+psycopg2://.

    Raises ValueError, without a part of the URL, where SQLAlchemy would misread it.
    """
    if not re.match(r"postgres(ql)?(\+psycopg2)?://", url):
        raise ValueError("must begin with postgresql:// or postgresql+psycopg2://")
    if not _POSTGRESQL.fullmatch(url):
        raise ValueError(_WRITE_AS_CODES)
    return f"postgresql+psycopg2://{url.partition('://')[2]}"


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
    """What is secret in a URL: the password, and what is named so; with `is_secret` all but the host and words."""
    # Also of one with signs in the password that another reader takes for the end of it.
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
