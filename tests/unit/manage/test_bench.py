"""`bench`: what a benchmark needs is installed, or said in a line."""

import pytest
from click.testing import CliRunner, Result

from manage import bench, checks, cli


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The benchmarks that were started; nobody is root."""
    names: list[str] = []
    monkeypatch.setattr(bench.os, "execv", lambda _, command: names.append(command[2]))
    monkeypatch.setattr(checks.os, "geteuid", lambda: 1000)
    return names


def run(name: str) -> Result:
    return CliRunner().invoke(cli.main, ["bench", name])


@pytest.mark.parametrize("name", ["sync", "send"])
def test_without_dovecot_it_says_what_to_install(
    started: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(checks, "missing_packages", lambda: ["dovecot-imapd", "isync", "systemd-container"])
    done = run(name)
    assert (done.exit_code, started) == (1, [])
    assert "needs dovecot-imapd" in done.stderr
    assert "apt-get install -y dovecot-imapd" in done.stderr
    assert "systemd-container" not in done.stderr
    assert "Traceback" not in done.stderr


def test_peers_that_are_not_there_are_left_out(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "missing_packages", lambda: ["isync", "spamd"])
    assert run("sync").exit_code == 0
    assert started == ["benchmarks.sync"]
    assert "Measured without isync." in run("sync").stderr
    assert "isync" not in run("dispatch").stderr


def test_root_has_them_installed(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    monkeypatch.setattr(checks.os, "geteuid", lambda: 0)
    monkeypatch.setattr(checks.shutil, "which", lambda *_, **__: "/usr/bin/apt-get")
    monkeypatch.setattr(checks, "_install", installed.extend)
    monkeypatch.setattr(checks, "missing_packages", lambda: [] if installed else ["dovecot-imapd", "isync"])
    assert run("sync").exit_code == 0
    assert (installed, started) == (["dovecot-imapd", "isync"], ["benchmarks.sync"])
