"""manage.sh: makes .venv once, mends half a one, and says what is missing.

The real script in a folder with a lock file that asks for nothing, and a stand-in for the command line. Python makes
two environments, which takes seconds each; where a test is about something else, the first of the two is copied.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.state import ROOT


class Clone:
    """A folder with manage.sh and nothing to install."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "manage").mkdir(parents=True)
        shutil.copy(ROOT / "manage.sh", root)
        for name in ("requirements-native.txt", "requirements-dev.txt"):
            (root / name).write_text("# nothing\n")
        (root / "manage" / "__main__.py").write_text("import sys; print('CLI', *sys.argv[1:])\n")

    def run(self, *arguments: str, cwd: Path | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.root / "manage.sh", *arguments],
            cwd=cwd or self.root,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone after its first use."""
    clone = Clone(tmp_path_factory.mktemp("made") / "a clone")
    done = clone.run("ps")
    assert done.stdout == "CLI ps\n", done.stderr
    assert "Making .venv with Python 3." in done.stderr
    return clone


@pytest.fixture(scope="module")
def copying(made: Clone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python3 that makes an environment by copying the one in `made`, and is the real Python otherwise."""
    folder = tmp_path_factory.mktemp("copying")
    shutil.copytree(made.root / ".venv", folder / "venv", symlinks=True)
    (folder / "venv" / ".locked-native").unlink()
    real = shutil.which("python3.11") or shutil.which("python3")
    script = f'[[ "$1 $2 $3" == "-m venv --clear" ]] || exec {real} "$@"; rm -rf "$4"; cp -a {folder}/venv "$4"'
    return program(folder / "bin", "python3", script)


@pytest.fixture
def path(copying: Path) -> str:
    """The PATH on which that python3 comes first."""
    return f"{copying.parent}:{os.environ['PATH']}"


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_later_use_installs_nothing_and_is_quick(made: Clone) -> None:
    started = time.monotonic()
    done = made.run("ps", "--json")
    assert (done.stdout, done.stderr) == ("CLI ps --json\n", "")
    assert time.monotonic() - started < 1


def test_it_works_from_any_folder_and_through_a_link(made: Clone, tmp_path: Path) -> None:
    link = tmp_path / "manage"
    link.symlink_to(made.root / "manage.sh")
    assert made.run("ps", cwd=Path("/")).stdout == "CLI ps\n"
    assert subprocess.run([link, "ps"], cwd="/", capture_output=True, text=True, check=True).stdout == "CLI ps\n"


def test_the_exit_code_is_that_of_the_command_line(made: Clone) -> None:
    main = made.root / "manage" / "__main__.py"
    kept = main.read_text()
    main.write_text("raise SystemExit(2)")
    try:
        assert made.run("ps").returncode == 2
    finally:
        main.write_text(kept)


def test_tests_need_more_than_the_stack_and_a_changed_lock_installs_again(made: Clone) -> None:
    assert "Installing" in made.run("setup").stderr
    assert made.run("test").stderr == ""
    assert made.run("ps").stderr == ""
    (made.root / "requirements-dev.txt").write_text("# something else\n")
    assert made.run("ps").stderr == ""
    assert "Installing" in made.run("lock").stderr
    (made.root / "requirements-native.txt").write_text("# something else\n")
    again = made.run("ps").stderr
    assert "Installing" in again
    assert "Making" not in again


def test_an_install_that_was_interrupted_is_begun_anew(made: Clone) -> None:
    (made.root / ".venv" / ".installing").touch()
    (made.root / ".venv" / "rubbish").touch()
    done = made.run("ps")
    assert "Making .venv" in done.stderr
    assert done.stdout == "CLI ps\n"
    assert not (made.root / ".venv" / "rubbish").exists()


def test_rebuild_stops_what_runs_and_makes_the_environment_anew(made: Clone, path: str) -> None:
    (made.root / ".venv" / "rubbish").touch()
    done = made.run("rebuild", PATH=path)
    assert "Making .venv" in done.stderr
    assert done.stdout == "CLI down\nCLI rebuild\n"
    assert not (made.root / ".venv" / "rubbish").exists()
    assert made.run("rebuild", "--help", PATH=path).stderr == ""


def test_a_shell_that_completes_a_word_installs_nothing(made: Clone) -> None:
    (made.root / ".venv" / ".installing").touch()
    done = made.run(_METABUILDER_COMPLETE="fish_complete")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    (made.root / ".venv" / ".installing").unlink()


def test_half_a_venv_is_mended(made: Clone, path: str) -> None:
    shutil.rmtree(next((made.root / ".venv" / "lib").glob("python*")) / "site-packages")
    (made.root / ".venv" / ".locked-native").unlink()
    assert made.run("ps", PATH=path).stdout == "CLI ps\n"
    (made.root / ".venv" / "bin" / "python").unlink()
    assert made.run("ps", PATH=path).stdout == "CLI ps\n"


def test_of_pip_only_errors_are_seen(made: Clone, path: str) -> None:
    lock = made.root / "requirements-native.txt"
    kept = lock.read_text()
    lock.write_text(f"not-there==1 --hash=sha256:{'0' * 64}\n")
    done = made.run("ps", PIP_NO_INDEX="1", PIP_FIND_LINKS="/nonexistent/wheels")
    lock.write_text(kept)
    assert done.returncode == 1
    assert "No matching distribution found for not-there" in done.stderr
    assert "is ignored" not in done.stderr
    assert made.run("ps", PATH=path).stdout == "CLI ps\n"


def test_two_first_uses_at_once_make_it_once(tmp_path: Path, path: str) -> None:
    clone = Clone(tmp_path / "clone")
    both = [
        subprocess.Popen(
            [clone.root / "manage.sh", "ps"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PATH": path},
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [out for out, _ in said] == ["CLI ps\n", "CLI ps\n"]
    assert sum("Making .venv" in err for _, err in said) == 1
    assert sum("Waiting for another" in err for _, err in said) <= 1


def no_python(folder: Path) -> str:
    """A PATH on which every Python is too old."""
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        program(folder, name, "exit 1")
    return f"{folder}:/usr/bin:/bin"


def without_root(command: list[str]) -> list[str]:
    """The command as an ordinary user runs it."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command] if os.geteuid() == 0 else command


def run_without_root(clone: Clone, path: str) -> "subprocess.CompletedProcess[str]":
    if os.geteuid() == 0:
        shutil.chown(clone.root, 65534, 65534)
    command = without_root([str(clone.root / "manage.sh"), "ps"])
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=False, cwd="/")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, as pytest's own is not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="the advice is for Debian")
def test_an_ordinary_user_is_told_to_install_python(open_folder: Path) -> None:
    done = run_without_root(Clone(open_folder / "clone"), no_python(open_folder / "bin"))
    assert done.returncode == 1
    assert "As root, run: apt-get update && apt-get install -y python3 python3-venv" in done.stderr
    assert not (open_folder / "clone" / ".venv").exists()


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="the advice is for Debian")
def test_an_ordinary_user_is_told_to_install_venv(open_folder: Path) -> None:
    path = no_python(open_folder / "bin")
    program(open_folder / "bin", "python3", 'case "$2" in *ensurepip*) exit 1;; *print*) echo 3.11;; esac')
    done = run_without_root(Clone(open_folder / "clone"), path)
    assert "As root, run: apt-get update && apt-get install -y python3.11-venv" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_root_installs_venv_by_itself(tmp_path: Path, copying: Path) -> None:
    bin_folder = tmp_path / "bin"
    path = no_python(bin_folder)
    installed = tmp_path / "installed"
    script = f'case "$2" in *ensurepip*) [[ -e {installed} ]];; *) exec {copying} "$@";; esac'
    program(bin_folder, "python3", script)
    program(bin_folder, "apt-get", f'echo "$@" >>{tmp_path}/asked; [[ "$*" != *install* ]] || touch {installed}')
    done = Clone(tmp_path / "clone").run("ps", PATH=path)
    assert done.stdout == "CLI ps\n", done.stderr
    assert "update" in (tmp_path / "asked").read_text()
    assert "-venv" in (tmp_path / "asked").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a folder of somebody else")
def test_a_clone_of_somebody_else_is_not_written(open_folder: Path) -> None:
    clone = Clone(open_folder / "clone")
    command = without_root([str(clone.root / "manage.sh"), "ps"])
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 1
    assert "use a clone of your own, or run this as root" in done.stderr
