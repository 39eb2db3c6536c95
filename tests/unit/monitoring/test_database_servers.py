"""Where `DATABASE_URL` names several servers, what is read about PostgreSQL is read of each."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.monitoring import connections
from tasks.monitoring.readings import certificates
from tasks.settings import load


def test_each_server_is_counted_and_its_certificate_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://broker:6379")
    monkeypatch.setenv("DATABASE_URL", "postgresql://w@one:5431,two:5432/mail?sslmode=verify-full")
    settings = load()
    assert connections.ports(settings) == {5431: "postgresql", 5432: "postgresql", 6379: "redis"}
    assert [(server.name, server.hostname, server.port) for server in certificates._servers(settings)] == [
        ("postgresql", "one", 5431),
        ("postgresql", "two", 5432),
    ]


def test_the_certificate_that_ends_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://w@one,two,three/mail?sslmode=verify-full")
    days = {"one": 3, "two": 1}

    def end_of(server: certificates._Server) -> datetime:
        if server.hostname not in days:
            raise OSError
        return datetime.now(UTC) + timedelta(days=days[server.hostname])

    monkeypatch.setattr(certificates, "_end_of_server", end_of)
    left = certificates.seconds_left(load())["postgresql"]
    assert 0 < left <= 24 * 3600
