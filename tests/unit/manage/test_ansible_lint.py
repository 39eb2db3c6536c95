"""ansible-lint runs where what it looks at has changed since it passed."""

import sys
from pathlib import Path

import pytest

from manage.ansible_lint import AnsibleLint


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose ansible-lint finds fault where a file `roles/fault` is."""
    for name in (".ansible-lint", "ansible.cfg", "requirements-dev.txt", "site.yml"):
        (tmp_path / name).touch()
    (tmp_path / "roles").mkdir()
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "ansible-lint").write_text(
        "#!/bin/sh\necho ran >>runs\n! [ -e roles/fault ] || { echo a fault; exit 2; }\n"
    )
    (programs / "ansible-lint").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    return tmp_path


def runs(project: Path) -> int:
    return len((project / "runs").read_text().splitlines())


def test_what_passed_is_looked_at_again_once_it_changes(project: Path) -> None:
    for number, change in enumerate(("main.yml", "defaults.yml", "template"), 1):
        (project / "roles" / change).write_text("words")
        assert AnsibleLint(project).finish() == (True, "")
        assert AnsibleLint(project).finish() == (True, "")
        assert runs(project) == number
    (project / "requirements-dev.txt").write_text("ansible-lint==2\n")
    assert AnsibleLint(project).finish() == (True, "")
    assert runs(project) == 4


def test_what_failed_fails_until_it_is_mended(project: Path) -> None:
    (project / "roles" / "fault").touch()
    for number in (1, 2):
        assert AnsibleLint(project).finish() == (False, "a fault\n")
        assert runs(project) == number
    (project / "roles" / "fault").unlink()
    assert AnsibleLint(project).finish() == (True, "")
