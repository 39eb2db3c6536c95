"""Redis Commander and the packages that it needs, put together by npm from the lock file of the role `admin_uis`."""

import hashlib
import shutil
import subprocess
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
    where npm is missing or fails.
    """
    if shutil.which("npm") is None:
        raise StackError("npm is not installed, which Redis Commander is fetched with: apt-get install npm")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name in _FILES:
        shutil.copyfile(_LOCKED / name, unfinished / name)
    command = ["npm", "ci", "--omit=dev", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(unfinished)
        raise StackError(f"npm could not fetch Redis Commander: {done.stderr.strip()[-500:]}")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
