"""Prometheus and its exporters, out of Debian's packages."""

from pathlib import Path

from tests.support.debian import unpacked

_PROGRAMS = (
    "prometheus",
    "prometheus-node-exporter",
    "prometheus-postgres-exporter",
    "prometheus-redis-exporter",
)


def program(name: str) -> str:
    """The path of a program of these packages. Raises StackError where they cannot be had."""
    return str(Path(unpacked(_PROGRAMS, ())) / "usr/bin" / name)
