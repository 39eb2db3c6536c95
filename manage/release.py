"""`release`: what the hosts run, made on the control machine once per Python and architecture.

A release is a virtual environment that holds the locked packages and the code, made for the folder in which it will
lie on the hosts, so that unpacking one archive is all that a host has to do. Its version names its content: the same
code and the same requirements are the same release, wherever and whenever they are built.
"""

import fcntl
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from manage.examples import example
from manage.output import print_json, say

HOME = "/opt/metabuilder"
# The files of a release. The command line is one of them, for `metabuilder` on a host. From native/ a host gets only
# the modules that the command line needs there, without servers and demo mailbox.
_CODE = (
    "tasks",
    "manage",
    "native/__init__.py",
    "native/backlog.py",
    "native/check.py",
    "native/errors.py",
    "native/redis_trouble.py",
)
# Files besides the code on which the content of a release depends.
_INPUTS = ("requirements.txt", "manage/release.py")
_ARCHIVES_KEPT = 8
_START_CELERY = """import sys

from celery.__main__ import main

sys.exit(main())
"""


@dataclass(frozen=True)
class Target:
    """A host's Python, like 3.11.2, and its machine, like x86_64."""

    python: str
    machine: str

    @property
    def minor(self) -> str:
        """The Python that a virtual environment is for: 3.11."""
        return ".".join(self.python.split(".")[:2])

    @property
    def site_packages(self) -> str:
        """Where packages lie in a virtual environment."""
        return f"lib/python{self.minor}/site-packages"


@click.group()
def release() -> None:
    """Build what the hosts run."""


@example("release build --for 3.11.2/x86_64")
@release.command()
@click.option(
    "--for", "targets", multiple=True, required=True, metavar="PYTHON/MACHINE", help="For example 3.11.2/x86_64."
)
def build(targets: tuple[str, ...]) -> None:
    """Make the archives of this code for hosts with such a Python, and print where they are as JSON."""
    from native.errors import StackError

    version, archives = current_version(), {}
    for text in targets:
        python, slash, machine = text.partition("/")
        if not slash or python.count(".") != 2:
            raise click.UsageError(f"{text!r} is not PYTHON/MACHINE, like 3.11.2/x86_64")
        try:
            archives[text] = str(archive(version, Target(python, machine)))
        except subprocess.CalledProcessError as error:
            raise StackError(f"release {version} for {text} could not be built: {error.stderr.strip()}") from error
        except OSError as error:
            why = f"release {version} for {text} could not be built in {_cache()} ({error.strerror})"
            raise StackError(f"{why}: make room there, or name another place in XDG_CACHE_HOME") from error
    print_json({"version": version, "archives": archives})


@example("release redis-commander")
@release.command(name="redis-commander")
def redis_commander() -> None:
    """Make the archive of Redis Commander, which hosts unpack, and print where it is as JSON."""
    from native import redis_commander as npm

    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"redis-commander-{npm.version()}.tar.gz"
    with _one_at_a_time(cache), _unfinished(cache) as folder:
        if not path.exists():
            say("Fetching Redis Commander and the packages that it needs …")
            npm.install(folder / "redis-commander")
            _pack(folder / "redis-commander").replace(path)
        path.touch()  # marks the archive as in use, so that it is pruned last
    print_json({"version": npm.version(), "archive": str(path)})


def current_version() -> str:
    """The version of the present code, committed or not: the project's version and a digest of the content."""
    from native.state import ROOT

    digest = hashlib.sha256()
    for path in [*(ROOT / name for name in _INPUTS), *code(ROOT)]:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    number = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return f"{number}-{digest.hexdigest()[:12]}"


def archive(version: str, target: Target) -> Path:
    """The archive of a release for a target, which is built if necessary."""
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{version}-python{target.python}-{target.machine}.tar.gz"
    with _one_at_a_time(cache), _unfinished(cache) as folder:
        if not path.exists():
            say(f"Building release {version} for Python {target.python} on {target.machine} …")
            packages = _packages(cache, folder, target)
            _make_code(folder / "code", version, target)
            code = _pack(folder / "code")
            _join([packages, code], folder / path.name).replace(path)
            _prune(cache)
    return path


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metabuilder" / "releases"


@contextmanager
def _unfinished(cache: Path) -> Iterator[Path]:
    """A temporary folder for a build, on the file system of the cache. Deletes what killed builds left there."""
    folder = cache / "unfinished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _packages(cache: Path, folder: Path, target: Target) -> Path:
    """The part of an archive that depends only on the requirements: everything but the code.

    It takes most of the time.
    """
    from native.state import ROOT

    requirements = ROOT / "requirements.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    path = cache / f"packages-{digest}-python{target.python}-{target.machine}.tar.gz"
    if not path.exists():
        site = folder / "packages" / target.site_packages
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(site)]
        install += ["--python-version", target.python, "--python-platform", f"{target.machine}-unknown-linux-gnu"]
        install += ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--link-mode", "copy"]
        subprocess.run([*install, "-r", str(requirements)], check=True, capture_output=True, text=True)
        shutil.rmtree(site / "bin", ignore_errors=True)  # scripts that start the Python of this machine
        (site / ".lock").unlink(missing_ok=True)
        _compile(folder / "packages", target)
        _pack(folder / "packages", is_last=False).replace(path)
    path.touch()  # marks the archive as in use, so that it is pruned last
    return path


def _make_code(folder: Path, version: str, target: Target) -> None:
    """Write the code and the files that `python -m venv` would make, for the folder's path on the hosts."""
    from native.state import ROOT

    for source in code(ROOT):
        copy = folder / target.site_packages / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    _compile(folder, target)
    (folder / "RELEASE").write_text(f"{version}\n")
    (folder / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {target.python}\n"
    )
    programs = folder / "bin"
    programs.mkdir()
    for name in ("python", "python3", f"python{target.minor}"):
        (programs / name).symlink_to(f"/usr/bin/python{target.minor}")
    # With the release's own path and not the link `current`,
    # so that a process stays with the release it started with.
    celery = programs / "celery"
    celery.write_text(f"#!{HOME}/releases/{version}/bin/python\n{_START_CELERY}")
    celery.chmod(0o755)


def _compile(folder: Path, target: Target) -> None:
    """Make byte code if the target's Python can read that of this Python. Otherwise the hosts make it."""
    if target.minor != "{}.{}".format(*sys.version_info):
        return
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "-s", str(folder), "-p", f"{HOME}/current"]
    subprocess.run([*command, str(folder / "lib")], check=True, capture_output=True, text=True)


def _pack(folder: Path, *, is_last: bool = True) -> Path:
    """Make the archive of a folder, next to the folder."""
    path = folder.with_suffix(".tar.gz")
    # Little compression, because the archive is sent once over a local network, and time matters more.
    with gzip.open(path, "wb", compresslevel=1) as compressed:
        tar = tarfile.TarFile(fileobj=compressed, mode="w")
        for member in sorted(folder.iterdir()):
            tar.add(member, arcname=member.name, filter=_readable_by_all)
        if is_last:
            tar.close()  # only the last part gets the end mark, after which `tar` reads no further part
    return path


def _join(parts: list[Path], path: Path) -> Path:
    """Join archives into one. Programs read members of gzip and of tar that follow each other as one file."""
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, whole)
    return path


def _readable_by_all(member: tarfile.TarInfo) -> tarfile.TarInfo:
    # The archive must not depend on the umask and the user of this machine.
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    is_program = member.isdir() or member.mode & 0o100
    member.mode = 0o755 if is_program else 0o644
    return member


def code(root: Path) -> Iterator[Path]:
    """The files below `root` that a release holds, in the order of their names."""
    for place in map(root.joinpath, _CODE):
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _prune(cache: Path) -> None:
    archives = sorted(cache.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)
    for path in archives[:-_ARCHIVES_KEPT]:
        path.unlink()


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
