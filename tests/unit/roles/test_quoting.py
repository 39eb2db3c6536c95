"""A password with any printable character means the same in every file."""

import shlex
from urllib.parse import unquote, urlsplit

import pytest

from tests.unit.roles.plugins import load

quoting = load("site/filter_plugins/quoting.py")

PASSWORDS = ["plain", "p@:/#%$ \"x' y\\z`&?", " edge ", "ünïcødé", "", "%40", "a\\", "$HOME ${x} $(id)"]


@pytest.mark.parametrize("password", PASSWORDS)
def test_in_a_url(password: str) -> None:
    url = urlsplit(f"redis://user:{quoting.url_quote(password)}@host:1/0")

    assert url.hostname == "host"
    assert unquote(url.password or "") == password


@pytest.mark.parametrize("password", PASSWORDS)
def test_in_an_env_file(password: str) -> None:
    """systemd reads double quotes as the shell does, but for expansions; where both agree, the shell shows it."""
    assert shlex.split(quoting.environment_quote(password).replace("\\$", "$").replace("\\`", "`")) == [password]


def test_the_hash_is_that_of_redis() -> None:
    """`ACL GENPASS`' manual has none, `ACL SETUSER u >password` followed by `ACL GETUSER u` shows this one."""
    assert quoting.redis_password_hash("password") == (
        "#5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
    )


@pytest.mark.parametrize(("value", "quoted"), [(True, "on"), (False, "off"), (5, "'5'"), ("it's", "'it''s'")])
def test_in_postgresql_conf(value: object, quoted: str) -> None:
    assert quoting.postgresql_quote(value) == quoted


@pytest.mark.parametrize("quote", ["environment_quote", "redis_quote", "postgresql_quote", "redis_password_hash"])
def test_a_line_break_is_refused(quote: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        getattr(quoting, quote)("a\nb")
