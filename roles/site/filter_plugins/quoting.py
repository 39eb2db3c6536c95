"""Quoting: a password with any printable character means the same in every file it is written into."""

import hashlib
from urllib.parse import quote


def url_quote(value):
    """`value` as one part of a URL (RFC 3986 section 2.1); the builtin `urlencode` leaves `/` as it is."""
    return quote(str(value), safe="")


def url_host(value):
    """A name or an address as the host of a URL: an IPv6 address gets brackets."""
    return f"[{value}]" if ":" in str(value) else str(value)


def environment_quote(value):
    """`value` for systemd's EnvironmentFile= (systemd.exec(5)): in double quotes, where \\ " ` and $ are escaped."""
    text = _one_line(value)
    for character in '\\"`$':
        text = text.replace(character, f"\\{character}")
    return f'"{text}"'


def redis_quote(value):
    """`value` for redis.conf: in double quotes, as `sdssplitargs` reads it."""
    text = _one_line(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def redis_password_hash(value):
    """The password as an ACL file holds it: its SHA-256 (Redis documentation, ACL SETUSER)."""
    return f"#{hashlib.sha256(_one_line(value).encode()).hexdigest()}"


def postgresql_quote(value):
    """`value` for postgresql.conf: in single quotes, doubled inside. Booleans become on and off."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "'{}'".format(_one_line(value).replace("\\", "\\\\").replace("'", "''"))


def _one_line(value):
    text = str(value)
    if any(character in text for character in "\n\r\0"):
        raise ValueError("a value that goes into a configuration file must be one line")
    return text


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self):
        """The filters by name."""
        return {
            "url_quote": url_quote,
            "url_host": url_host,
            "environment_quote": environment_quote,
            "redis_quote": redis_quote,
            "redis_password_hash": redis_password_hash,
            "postgresql_quote": postgresql_quote,
        }
