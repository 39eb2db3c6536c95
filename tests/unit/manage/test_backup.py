"""`./manage.sh -i INVENTORY backup`: what the host with the backups is asked, and what is made of its answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manage import backup, cli
from manage.site import Answer, Site

UNIT = "metabuilder-backup@incr.service"
ENDED = "Result=success\nActiveState=inactive\nJob=\n"
VERIFIED = "stanza: metabuilder\nstatus: {}\n  archiveId: 17-1, total WAL checked: 8, total valid WAL: {}\n"


def row(name: str, kind: str = "full", start: int = 1795877958) -> dict[str, Any]:
    """A backup as `pgbackrest info` has it."""
    return {
        "label": name,
        "type": kind,
        "error": False,
        "timestamp": {"start": start, "stop": start + 3},
        "info": {"size": 30_526_321, "repository": {"delta": 3_758_064, "size": 3_758_064}},
    }


def info(*rows: dict[str, Any], code: int = 0) -> str:
    archive = [{"id": "17-1", "min": "000000010000000000000001", "max": "000000010000000000000003"}]
    return json.dumps([{"name": "metabuilder", "status": {"code": code}, "archive": archive, "backup": rows}])


class Keeper:
    """Stands in for the host with the backups: its answers by a word of the command, one after the other."""

    def __init__(self, **answers: Sequence[str | Answer]) -> None:
        self.answers = {word: list(found) for word, found in answers.items()}
        self.asked: list[tuple[str, ...]] = []

    def run(self, hosts: Sequence[str], argv: Sequence[str], _stdin: str = "") -> list[Answer]:
        assert list(hosts) == ["b1"]
        self.asked.append(tuple(argv))
        word = next(word for word in (*self.answers, argv[0]) if word in argv)
        found = self.answers.get(word, [""])
        answer = found.pop(0) if len(found) > 1 else found[0]
        return [answer if isinstance(answer, Answer) else Answer("b1", 0, answer, "")]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("postgresql: {hosts: {d1: }}\nbackup: {hosts: {b1: }}\n")
    monkeypatch.setattr(backup, "_POLL_SECONDS", 0)

    def run(keeper: Keeper, *arguments: str) -> Result:
        monkeypatch.setattr(Site, "run", lambda _, *asked: keeper.run(*asked))
        return CliRunner().invoke(cli.main, ["-i", str(inventory), "backup", *arguments])

    return run


def test_backups_are_listed_for_people_and_for_programs(site: Any) -> None:
    keeper = Keeper(info=[info(row("A", start=1795877958), row("B", "incr", start=1795878958))])
    shown = site(keeper, "list")
    assert shown.exit_code == 0
    assert [word for word in ("A", "B", "incremental", "30.5 MB", "3.8 MB") if word not in shown.stdout] == []
    assert "Any moment since 2026-11-28 14:59:21 UTC" in shown.stderr
    listed = json.loads(site(keeper, "list", "--json").stdout)
    assert (listed["host"], listed["archived"]) == ("b1", "000000010000000000000003")
    assert [one["name"] for one in listed["backups"]] == ["A", "B"]
    assert {argv[:4] for argv in keeper.asked} == {("runuser", "--user=postgres", "--", "pgbackrest")}


@pytest.mark.parametrize("said", [info(code=2), "[]"], ids=["none yet", "none of ours"])
def test_that_there_is_no_backup_is_a_failure_that_says_what_to_do(site: Any, said: str) -> None:
    done = site(Keeper(info=[said]), "list")
    assert (done.exit_code, "backup now" in done.stderr) == (1, True)
    assert site(Keeper(info=[said]), "verify").exit_code == 1


def test_a_host_that_cannot_be_reached_is_named(site: Any) -> None:
    done = site(Keeper(info=[Answer("b1", 1, "", "cannot be reached", True)]), "list")
    assert (done.exit_code, done.stderr) == (1, "error: b1: cannot be reached\n")


def test_a_backup_is_waited_for_and_named(site: Any) -> None:
    keeper = Keeper(
        info=[info(row("A")), info(row("A"), row("B", "incr"))],
        show=[
            "Result=success\nActiveState=inactive\nJob=17\n",
            "Result=success\nActiveState=activating\nJob=\n",
            ENDED,
        ],
    )
    done = site(keeper, "now", "--json")
    assert (done.exit_code, [one["name"] for one in json.loads(done.stdout)["backups"]]) == (0, ["B"])
    assert ("systemctl", "start", "--no-block", UNIT) in keeper.asked
    assert sum("show" in argv for argv in keeper.asked) == 3


def test_a_backup_that_fails_shows_what_it_said(site: Any) -> None:
    keeper = Keeper(
        info=[info(row("A"))],
        show=["Result=exit-code\nActiveState=failed\nJob=\n"],
        journalctl=["ERROR: [056]: no \x1b[2Jprimary\n"],
    )
    done = site(keeper, "now")
    assert done.exit_code == 1
    assert r"no \x1b[2Jprimary" in done.output
    assert "b1 made no backup (exit-code)" in done.stderr


@pytest.mark.parametrize(("status", "valid", "code"), [("ok", 8, 0), ("error", 7, 1)])
def test_what_is_damaged_is_a_failure_though_pgbackrest_exits_with_0(
    site: Any, status: str, valid: int, code: int
) -> None:
    keeper = Keeper(info=[info(row("A"))], verify=[VERIFIED.format(status, valid)])
    done = site(keeper, "verify")
    assert (done.exit_code, "are damaged" in done.stderr) == (code, bool(code))
    assert json.loads(site(keeper, "verify", "--json").stdout)["ok"] is (code == 0)


def test_the_site_has_to_be_named() -> None:
    done = CliRunner().invoke(cli.main, ["backup", "list"])
    assert (done.exit_code, "-i inventories/NAME" in done.stderr) == (2, True)
