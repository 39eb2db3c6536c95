"""`./manage.sh -i INVENTORY db:…`: what the hosts of PostgreSQL are asked, and what is made of their answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manage import cli, db
from manage.site import Answer, Site

HOSTS = ("d1", "d2", "d3")


class Patroni:
    """Stands in for the three hosts: which leads, which has every commit, which are away."""

    def __init__(self, leader: str = "d1", sync: Sequence[str] = ("d2",), away: Sequence[str] = ()) -> None:
        self.leader, self.sync, self.away = leader, tuple(sync), away
        self.states = dict.fromkeys(HOSTS, "streaming")
        self.asked: list[tuple[str, ...]] = []
        self.settings: list[Any] = []

    def run(self, hosts: Sequence[str], argv: Sequence[str], stdin: str = "") -> list[Answer]:
        [host] = hosts
        if host in self.away:
            return [Answer(host, 1, "", "cannot be reached", True)]
        assert argv[:5] == db._PATRONICTL
        verb, arguments = argv[5], tuple(argv[6:])
        if verb == "list":
            return [Answer(host, 0, json.dumps([self._row(one) for one in HOSTS if one not in self.away]), "")]
        self.asked.append((verb, *arguments))
        if verb == "edit-config":
            self.settings.append(json.loads(stdin))
            self.sync = HOSTS if self.settings[-1]["synchronous_node_count"] else ("d2",)
        if verb == "switchover":
            self.leader = arguments[2] if "--candidate" in arguments else self.sync[0]
        return [Answer(host, 0, "done", "")]

    def _row(self, host: str) -> dict[str, Any]:
        role = "Leader" if host == self.leader else "Sync Standby" if host in self.sync else "Replica"
        state = "running" if host == self.leader else self.states[host]
        return {"Member": host, "Role": role, "State": state, "Lag in MB": "unknown" if state == "stopped" else 0}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("postgresql: {hosts: {d1: , d2: , d3: }}\n")
    monkeypatch.setattr(db, "_POLL_SECONDS", 0)

    def run(patroni: Patroni, *arguments: str) -> Result:
        monkeypatch.setattr(Site, "run", lambda _, *asked: patroni.run(*asked))
        return CliRunner().invoke(cli.main, ["-i", str(inventory), *arguments])

    return run


def test_who_takes_writes_is_shown_also_where_one_host_is_away(site: Any) -> None:
    shown = site(Patroni(), "db:status")
    assert (shown.exit_code, shown.stdout.count("streaming")) == (0, 2)
    assert [
        word for word in ("takes writes", "has every commit", "follows", "0 MB") if word not in shown.stdout
    ] == []
    alone = site(Patroni(away=["d1"], leader="d2", sync=["d3"]), "db:status", "--json")
    assert [one["state"] for one in json.loads(alone.stdout)] == ["is away", "running", "streaming"]
    assert (alone.exit_code, "no copy that follows on d1" in alone.stderr) == (1, True)


def test_that_no_host_takes_writes_is_a_failure(site: Any) -> None:
    done = site(Patroni(leader="nobody"), "db:status")
    assert (done.exit_code, "no host takes writes" in done.stderr) == (1, True)
    away = site(Patroni(away=HOSTS), "db:status")
    assert (away.exit_code, away.stderr.count("cannot be reached")) == (1, 3)


def test_the_host_with_every_commit_takes_writes(site: Any) -> None:
    patroni = Patroni()
    done = site(patroni, "db:switchover", "--yes")
    assert (done.exit_code, done.stderr) == (0, "d2 takes writes, d1 follows\n")
    assert patroni.asked == [("switchover", "--force", "metabuilder")]


def test_a_host_gets_every_commit_before_it_takes_writes(site: Any) -> None:
    patroni = Patroni()
    done = site(patroni, "db:switchover", "d3", "--yes")
    assert (done.exit_code, done.stderr) == (0, "d3 takes writes, d1 follows\n")
    assert patroni.asked[1] == ("switchover", "--force", "--candidate", "d3", "metabuilder")
    assert patroni.settings == [{"synchronous_node_count": 2}, {"synchronous_node_count": None}]


def test_nothing_is_changed_without_need_or_a_yes(site: Any) -> None:
    patroni = Patroni()
    assert site(patroni, "db:switchover", "d1").exit_code == 0
    assert site(patroni, "db:switchover", "d2").exit_code == 1
    assert site(patroni, "db:rebuild", "d2").exit_code == 1
    assert "is not in the group postgresql" in site(patroni, "db:switchover", "d9", "--yes").stderr
    assert "db:switchover first" in site(patroni, "db:rebuild", "d1", "--yes").stderr
    assert patroni.asked == []


def test_a_copy_is_made_anew(site: Any) -> None:
    patroni = Patroni()
    done = site(patroni, "db:rebuild", "d3", "--yes")
    assert (done.exit_code, done.stderr) == (0, "d3 has a copy, and follows\n")
    assert patroni.asked == [("reinit", "--force", "--wait", "metabuilder", "d3")]


def test_a_copy_that_does_not_follow_in_time_is_a_failure(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "_PATIENCE_SECONDS", 0)
    patroni = Patroni()
    patroni.states["d3"] = "stopped"
    done = site(patroni, "db:rebuild", "d3", "--yes")
    assert (done.exit_code, "d3 follows: not done" in done.stderr) == (1, True)


def test_a_site_with_one_host_has_no_copies(site: Any, tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("postgresql: {hosts: {d1: }}\n")
    done = site(Patroni(), "db:status")
    assert (done.exit_code, "d1 is the only host" in done.stderr) == (1, True)
    assert CliRunner().invoke(cli.main, ["db:status"]).exit_code == 2
