"""`./manage.sh -i INVENTORY redis:status` and `redis:switchover`: whom they ask, and what is made of the answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manage import cli
from manage.site import Answer, Site

PROGRAM = "/usr/local/sbin/metabuilder-redis-failover"
WELL: dict[str, Any] = {
    "broker": {
        "master": "r2",
        "redis": {
            "r1": {"role": "replica", "link": "up", "offset": 5, "of": "r2"},
            "r2": {"role": "master", "replicas": 2, "offset": 5},
            "r3": {"role": "away", "why": "r3:6379 cannot be asked: timed out"},
        },
        "sentinels": {"r1": "r2", "r2": "r2", "r3": None},
        "faults": [],
    }
}


class Hosts:
    """Stand in for the hosts of Redis; those in `away` cannot be reached."""

    def __init__(self, answer: Answer, *away: str) -> None:
        self.answer, self.away, self.asked = answer, away, list[tuple[str, ...]]()

    def run(self, hosts: Sequence[str], argv: Sequence[str], _stdin: str = "") -> list[Answer]:
        [host] = hosts
        self.asked.append((host, *argv))
        return [
            Answer(host, 1, "", "cannot be reached: timed out", is_away=True) if host in self.away else self.answer
        ]


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(hosts: Hosts, *arguments: str, names: Sequence[str] = ("r1", "r2", "r3")) -> Result:
        inventory = tmp_path / "hosts.yml"
        inventory.write_text(json.dumps({"redis": {"hosts": dict.fromkeys(names)}}))
        monkeypatch.setattr(Site, "run", lambda _, *asked: hosts.run(*asked))
        return CliRunner().invoke(cli.main, ["-i", str(inventory), *arguments])

    return run


def test_the_first_host_that_can_be_reached_tells_of_all(verb: Any) -> None:
    hosts = Hosts(Answer("r2", 0, json.dumps(WELL), ""), "r1")
    done = verb(hosts, "redis:status")
    assert done.exit_code == 0, done.output
    assert hosts.asked == [("r1", PROGRAM, "status", "--json"), ("r2", PROGRAM, "status", "--json")]
    lines = [line.split() for line in done.output.splitlines()]
    assert ["broker", "r1", "replica", "of", "r2,", "link", "up", "r2"] in lines
    assert ["broker", "r2", "master", "2", "replicas", "r2"] in lines
    assert ["broker", "r3", "away", "away"] in lines
    assert json.loads(verb(Hosts(Answer("r1", 0, json.dumps(WELL), "")), "redis:status", "--json").stdout) == WELL


def test_faults_are_said_and_are_the_exit_code(verb: Any) -> None:
    broken = {"broker": {**WELL["broker"], "faults": ["the Sentinel of r3 is away"]}}
    done = verb(Hosts(Answer("r1", 1, json.dumps(broken), "")), "redis:status")
    assert (done.exit_code, "broker: the Sentinel of r3 is away" in done.output) == (1, True)


def test_a_switch_is_asked_for_as_given_and_says_what_became_of_it(verb: Any) -> None:
    hosts = Hosts(Answer("r1", 0, "results: r3 is the master, r2 was\n", ""))
    done = verb(hosts, "redis:switchover", "results", "r3")
    assert (done.exit_code, "results: r3 is the master, r2 was" in done.output) == (0, True)
    verb(hosts, "redis:switchover")
    assert [words[1:] for words in hosts.asked] == [
        (PROGRAM, "switchover", "results", "r3"),
        (PROGRAM, "switchover", "broker"),
    ]
    done = verb(Hosts(Answer("r1", 1, "", "broker has no replica\n")), "redis:switchover")
    assert (done.exit_code, "r1: broker has no replica" in done.output) == (1, True)


def test_where_nothing_can_take_over_it_is_said(verb: Any) -> None:
    nobody = Hosts(Answer("r1", 0, "", ""), "r1", "r2", "r3")
    done = verb(nobody, "redis:switchover")
    assert (done.exit_code, "no host of the group redis can be reached: r1, r2, r3" in done.output) == (1, True)
    done = verb(Hosts(Answer("r1", 0, "", "")), "redis:status", names=["r1"])
    assert (done.exit_code, "r1 is the only host of the group redis" in done.output) == (1, True)
