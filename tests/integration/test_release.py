"""Releases: built once for each content and Python, from real wheels, and whole when unpacked."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from manage.release import code, release
from native.errors import StackError
from native.state import ROOT
from tests.conftest import unavailable

# One of each group of commands that a host has.
COMMANDS = (
    "account list --tenant acme",
    "outbox list --tenant acme",
    "dlq list --tenant acme",
    "credentials keys",
    "credentials rotate",
    "reread --status",
    "sync ann@example.org",
    "send ann@example.org --to bob@example.org --subject sample",
)
OLD, NEW = "3.11.2/x86_64", "3.13.5/x86_64"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with little code and two requirements, one of them for Python before 3.11.3 only."""
    clone = tmp_path / "clone"
    for folder in ("tasks/storage", "manage", "native"):
        (clone / folder).mkdir(parents=True)
    (clone / "tasks/__init__.py").write_text("")
    (clone / "tasks/storage/script.py.mako").write_text("${up_revision}\n")
    (clone / "manage/release.py").write_text("")
    for name in ("__init__", "errors", "redis_trouble", "demo_mail"):
        (clone / f"native/{name}.py").write_text("")
    (clone / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    locked = re.findall(
        r"^(?:six|async-timeout)==(?:.*\\\n)+.*\n", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    )
    assert len(locked) == 2
    (clone / "requirements.txt").write_text("".join(locked))
    monkeypatch.setattr("native.state.ROOT", clone)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return clone


def build(*targets: str) -> tuple[str, dict[str, Path]]:
    """What `./manage.sh release build` prints."""
    done = CliRunner().invoke(release, ["build", *(part for target in targets for part in ("--for", target))])
    if done.exit_code and "error sending request" in str(done.exception):
        unavailable("the package registry does not answer")
    assert done.exit_code == 0, (done.output, done.exception)
    said = json.loads(done.stdout)
    return said["version"], {target: Path(path) for target, path in said["archives"].items()}


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as tar:
        return {member.name: member for member in tar}


def copy_code(folder: Path) -> None:
    """The code that a release holds, and nothing else of the repository."""
    for source in code(ROOT):
        copy = folder / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def test_a_release_is_a_virtual_environment_for_its_place_on_the_hosts(clone: Path) -> None:
    version, archives = build(OLD)
    found = members(archives[OLD])
    with tarfile.open(archives[OLD]) as tar:
        program = tar.extractfile("bin/celery").read().decode()
        assert tar.extractfile("RELEASE").read().decode() == f"{version}\n"
    assert program.startswith(f"#!/opt/metabuilder/releases/{version}/bin/python\n")
    assert found["bin/python"].linkname == "/usr/bin/python3.11"
    site = "lib/python3.11/site-packages"
    assert {f"{site}/six.py", f"{site}/tasks/__init__.py", f"{site}/tasks/storage/script.py.mako"} <= set(found)
    assert f"{site}/native/demo_mail.py" not in found


def test_the_commands_of_a_host_need_nothing_that_a_release_does_not_hold(tmp_path: Path) -> None:
    copy_code(tmp_path)
    script = "import sys; from click.testing import CliRunner; from manage.cli import main\n"
    script += (
        "for line in sys.stdin: done = CliRunner().invoke(main, line.split()); print([done.output, done.exception])"
    )
    here = {"PYTHONPATH": str(tmp_path), "METABUILDER_COMMAND": "metabuilder", "PATH": os.environ["PATH"]}
    here["DATABASE_URL"] = "postgresql+psycopg2://sample:sample@127.0.0.1:1/sample"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(COMMANDS),
        env=here,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for command, said in zip(COMMANDS, done.stdout.splitlines(), strict=True):
        # What each ends with where neither PostgreSQL nor Redis is there.
        assert "error: " in said, (command, said)
        assert said.endswith("SystemExit(1)]"), (command, said)


def test_each_module_of_a_release_needs_nothing_that_a_release_does_not_hold(tmp_path: Path) -> None:
    """`health` on a host once imported a module that only the control machine has."""
    copy_code(tmp_path)
    modules = [path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.py")]
    run_alone = ("__main__", "migrations")  # programs, and what Alembic loads within a migration
    names = [".".join(module.parts) for module in modules if not set(run_alone) & set(module.parts)]
    script = "import importlib, sys\nfor name in sys.stdin.read().split(): importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(sorted(names)),
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_everybody_on_a_host_may_read_it_and_only_root_may_write(clone: Path) -> None:
    (clone / "tasks/__init__.py").chmod(0o600)
    before = os.umask(0o077)
    try:
        _, archives = build(OLD)
    finally:
        os.umask(before)
    for member in members(archives[OLD]).values():
        if not member.issym():
            assert member.mode == (0o755 if member.isdir() or member.name == "bin/celery" else 0o644), member.name
        assert (member.uid, member.gid) == (0, 0)


def test_requirements_are_those_of_the_hosts_python_not_of_this_one(clone: Path) -> None:
    _, archives = build(OLD, NEW)
    assert "lib/python3.11/site-packages/async_timeout/__init__.py" in members(archives[OLD])
    assert [name for name in members(archives[NEW]) if "async_timeout" in name] == []


def test_the_same_content_is_built_once(clone: Path) -> None:
    version, archives = build(OLD)
    first = archives[OLD].stat()
    (clone / "tasks/__pycache__").mkdir()
    (clone / "tasks/__pycache__/left.pyc").write_text("not content")
    assert build(OLD) == (version, archives)
    assert archives[OLD].stat().st_ino == first.st_ino


def test_other_content_is_another_release_of_the_same_packages(clone: Path, tmp_path: Path) -> None:
    version, archives = build(OLD)
    (clone / "tasks/__init__.py").write_text("changed = True\n")
    changed, other = build(OLD)
    assert changed != version
    assert changed.startswith("1.2.3-")
    assert archives[OLD].exists()
    assert other[OLD] != archives[OLD]
    assert len(list((tmp_path / "cache/metabuilder/releases").glob("packages-*"))) == 1


def test_a_package_that_is_not_the_locked_one_is_refused(clone: Path) -> None:
    locked = (clone / "requirements.txt").read_text()
    (clone / "requirements.txt").write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", locked))
    done = CliRunner().invoke(release, ["build", "--for", OLD])
    assert "Hash mismatch" in str(done.exception)


def test_a_build_that_found_no_room_says_so_leaves_nothing_and_is_completed(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a disk that is full when the parts of an archive are joined
    build(OLD)
    cache = tmp_path / "cache/metabuilder/releases"
    (packages,) = cache.glob("packages-*")
    (clone / "tasks/__init__.py").write_text("changed = True\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (packages.stat().st_size + 100, limits[1]))
        done = CliRunner().invoke(release, ["build", "--for", OLD])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)

    # Then that is said, and once there is room nothing is in the way
    assert isinstance(done.exception, StackError), done.exception
    assert str(cache) in str(done.exception)
    assert len(list(cache.iterdir())) == 3  # the lock, the packages, the release before
    _, archives = build(OLD)
    assert archives[OLD].exists()


@pytest.mark.parametrize("wrong", ["3.11/x86_64", "3.11.2", "x86_64"])
def test_a_target_is_a_whole_version_and_a_machine(clone: Path, wrong: str) -> None:
    assert CliRunner().invoke(release, ["build", "--for", wrong]).exit_code == 2
