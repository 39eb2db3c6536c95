"""What `health` says of a host, by what the host says of itself."""

from typing import Any

import pytest

from manage.health import read_check
from manage.host_checks import check_host, releases_differ
from native.check import Check

NOW = 1_800_000_000.0
DAY = 86_400.0


def found(**state: Any) -> list[tuple[str, str, str]]:
    """What is not well: how bad, what, and how it is said with what to do."""
    well: dict[str, Any] = {
        "units": [{"unit": "celery-worker.service", "state": "active"}],
        "disks": [{"place": "/", "bytes_free": 10**10, "bytes_used": 0.5, "files_used": 0.1}],
        "certificates": [{"path": "/etc/metabuilder/tls/redis.crt", "ends": NOW + 300 * DAY}],
        "clock": NOW + 1,
    }
    checks = check_host({**well, **state}, now=(NOW, NOW + 3), logs="metabuilder logs")
    return [
        ("look" if check.ok else "down", check.component, f"{check.detail}. {check.advice}")
        for check in checks
        if check.warns or not check.ok
    ]


def unit(name: str, state: str) -> dict[str, list[dict[str, str]]]:
    return {"units": [{"unit": name, "state": state}]}


def disk(used: float, files: float = 0) -> dict[str, list[dict[str, Any]]]:
    return {"disks": [{"place": "/var", "bytes_free": 10**6, "bytes_used": used, "files_used": files}]}


def certificate(days: float | None) -> dict[str, list[dict[str, Any]]]:
    return {"certificates": [{"path": "/x/ca.crt", "ends": None if days is None else NOW + days * DAY}]}


def test_a_host_that_is_well_has_no_finding() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("state", "how", "component", "said"),
    [
        (unit("celery-worker@sending.service", "failed"), "down", "unit celery-worker@sending",
         "failed. metabuilder logs worker; start it"),
        (unit("redis-server@broker.service", "inactive"), "down", "unit redis-server@broker",
         "is stopped. metabuilder logs redis;"),
        (unit("postgresql@15-main.service", "failed"), "down", "unit postgresql@15-main",
         "metabuilder logs postgres;"),
        (unit("celery-beat.service", "activating"), "look", "unit celery-beat", "activating. metabuilder logs beat;"),
        ({"units": []}, "down", "units", "none of ours is there"),
        (disk(0.86), "look", "disk /var", "86% of its bytes used, 1.0 MB free. Make room"),
        (disk(0.96), "down", "disk /var", "96% of its bytes used"),
        (disk(0.1, files=0.99), "down", "disk /var", "99% of its files used"),
        (certificate(13), "look", "certificate ca.crt", "in 13 days. Run site.yml"),
        (certificate(-1), "down", "certificate ca.crt", "ended on 2027-01-14. Run site.yml"),
        (certificate(None), "down", "certificate ca.crt", "cannot be read"),
        ({"clock": NOW - 9}, "look", "clock", "is 9 s behind that of the machine that asked"),
        ({"clock": NOW + 12}, "look", "clock", "is 9 s ahead of that"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(state: dict[str, Any], how: str, component: str, said: str) -> None:
    [(seen, name, words)] = found(**state)
    assert (seen, name) == (how, component)
    assert said in words


def test_releases_that_differ_are_said_with_their_hosts() -> None:
    releases = {"w1": "0.1.0-a", "w2": "0.1.0-b", "beat": "0.1.0-a", "redis": None}
    check = releases_differ({host: {"release": release} for host, release in releases.items()})
    assert check.warns
    assert "w1, beat: 0.1.0-a; w2: 0.1.0-b" in check.detail
    assert not releases_differ({"w1": {"release": "0.1.0-a"}, "redis": {"release": None}}).warns


def test_a_host_of_a_later_release_may_say_more_of_a_check() -> None:
    known = Check("redis", True, "answers", figures={"seconds": 1})
    assert read_check({"host": None, **known.as_dict(), "since": 7}) == known
