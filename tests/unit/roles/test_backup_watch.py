"""What backup_watch.py makes of what pgBackRest and a restored cluster say. The drill itself is tried on hosts
(molecule/shared/tests/test_backup.py)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.unit.roles.plugins import ROLES, load

watch = load("backup/files/backup_watch.py")

NOW = 1_795_880_000.0
PLACE = {"programs": "/usr/lib/postgresql/17/bin", "configuration": "/etc/x", "database": "metabuilder"}
FULL = {"type": "full", "timestamp": {"start": 100, "stop": 200}, "info": {"size": 30}}
CHANGED = {"type": "incr", "timestamp": {"start": 300, "stop": 400}, "info": {"size": 31}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watch, "FOLDER", tmp_path)
    monkeypatch.setattr(watch.time, "time", lambda: NOW)
    monkeypatch.setattr(watch, "restore", lambda *_: None)
    monkeypatch.setattr(watch, "start", lambda _: None)
    monkeypatch.setattr(watch, "info", lambda: {"backup": [FULL, CHANGED]})
    return tmp_path


def answers(monkeypatch: pytest.MonkeyPatch, **changed: str) -> Callable[[], list[str]]:
    """A cluster that is well, but for what is changed; the programs that were run."""
    said = {
        "ledger') IS NULL": "f",
        "FROM metabuilder_backup.ledger": f"{NOW - 40}|100|2000",
        "to_regclass('public.blob')": "t",
        "count(*) FROM public.email_client": "99",
        "count(*) FROM public.email_message": "1990",
        "count(*) FROM public.blob": "20000",
        "TABLESAMPLE": "900|0",
    } | changed
    ran: list[str] = []

    def run(what: str, *command: object) -> str:
        ran.append(what)
        found = [text for words, text in said.items() if words in str(command[-1])]
        if text := said.get(what):
            raise watch.DrillError(text)
        return found[0] if found else ""

    monkeypatch.setattr(watch, "run", run)
    return lambda: ran


def metrics(folder: Path, name: str) -> dict[str, float]:
    file = folder / "metrics" / f"{name}.prom"
    assert file.stat().st_mode & 0o777 == 0o644
    lines = [line.split() for line in file.read_text().splitlines() if not line.startswith("#")]
    return {metric: float(value) for metric, value in lines}


def drill(oldest_seconds: float = 300) -> int:
    return int(watch.main("drill", json.dumps({**PLACE, "oldest_seconds": oldest_seconds})))


def test_a_backup_that_is_whole_is_measured_and_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = answers(monkeypatch)
    (folder / "drill").mkdir()
    (folder / "drill" / "left").touch()
    assert drill() == 0
    found = metrics(folder, "drill")
    assert (found["metabuilder_restore_drill_ok"], found["metabuilder_restore_drill_rpo_seconds"]) == (1, 40)
    assert ran()[-2:] == ["check tables and indexes", "stop the scratch cluster"]
    assert [path.name for path in folder.iterdir()] == ["metrics"]
    assert "40 s old" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"FROM metabuilder_backup.ledger": f"{NOW - 301}|100|2000"}, "is 301 s old"),
        ({"FROM metabuilder_backup.ledger": ""}, "metabuilder-backup-ledger.service"),
        ({"ledger') IS NULL": "t"}, "the ledger did not come back"),
        ({"count(*) FROM public.email_client": "89"}, "89 accounts came back, of 100"),
        ({"count(*) FROM public.email_message": "1799"}, "1799 messages came back, of 2000"),
        ({"TABLESAMPLE": "900|2"}, "2 stored files are not what their SHA-256 says"),
        ({"check tables and indexes": "index is damaged"}, "index is damaged"),
    ],
)
def test_a_backup_that_is_not_good_is_a_failure_that_says_why(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    why: str,
) -> None:
    ran = answers(monkeypatch, **changed)
    assert drill() == 1
    assert why in capsys.readouterr().out
    assert metrics(folder, "drill")["metabuilder_restore_drill_ok"] == 0
    assert ran()[-1] == "stop the scratch cluster"
    assert [path.name for path in folder.iterdir()] == ["metrics"]


def test_a_host_without_room_is_not_filled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(watch, "FOLDER", folder)
    huge = {**FULL, "info": {"size": 10**18}}
    monkeypatch.setattr(watch, "info", lambda: {"backup": [huge]})
    assert drill() == 1
    assert "make room" in capsys.readouterr().out


@pytest.mark.parametrize(("result", "is_ok"), [("success", 1), ("exit-code", 0)])
def test_after_a_backup_its_age_is_written_whatever_became_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, result: str, is_ok: int
) -> None:
    monkeypatch.setenv("SERVICE_RESULT", result)
    assert watch.main("backup") == 0
    assert metrics(folder, "backup") == {
        "metabuilder_backup_ok": is_ok,
        "metabuilder_backup_timestamp_seconds": 400,
        "metabuilder_backup_first_timestamp_seconds": 200,
        "metabuilder_backup_bytes": 31,
        "metabuilder_backup_full_timestamp_seconds": 200,
    }


def test_a_program_that_fails_is_named() -> None:
    with pytest.raises(watch.DrillError, match="could not try it: exit code 1"):
        watch.run("try it", "false")


def test_the_unit_gives_what_the_program_takes() -> None:
    given = yaml.safe_load((ROLES / "backup" / "vars" / "main.yml").read_text())["_backup_drill"]
    assert (*given,) == watch.Place._fields
