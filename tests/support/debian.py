"""Programs out of Debian packages that cannot be installed beside each other: unpacked into a folder of their own.

Debian's IMAP servers conflict with one another, and one that is installed starts by itself. Unpacked, a server is
files and nothing more: no root, no system user, no service.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from native.errors import StackError


def unpacked(programs: Sequence[str], libraries: Sequence[str]) -> Path:
    """The folder with the files of these packages, downloaded once; libraries only where they are not installed.

    Raises StackError where they cannot be had.
    """
    packages = (*programs, *(library for library in libraries if not _is_installed(library)))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metabuilder" / "packages"
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    with (cache / f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _unpack(packages, root)
    return root


def library_path(root: Path) -> str:
    """LD_LIBRARY_PATH for programs below `root`."""
    return ":".join(sorted({str(library.parent) for library in root.rglob("*.so*")}))


def _is_installed(package: str) -> bool:
    command = ("dpkg-query", "--show", "--showformat=${db:Status-Status}", package)
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "installed"
    except FileNotFoundError:
        return False


def _unpack(packages: Sequence[str], root: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise StackError(f"{packages[0]} comes from a Debian package, and this is no Debian")
    # Not in the cache: apt, as a user of its own, is to reach it.
    with tempfile.TemporaryDirectory(prefix="packages") as downloads:
        Path(downloads).chmod(0o755)
        if _run(("apt-get", "-qq", "download", *packages), downloads) and os.geteuid() == 0:
            _run(("apt-get", "-qq", "update"), downloads)
            said = _run(("apt-get", "-qq", "download", *packages), downloads)
        archives = sorted(Path(downloads).glob("*.deb"))
        if len(archives) < len(packages):
            said = _run(("apt-get", "-qq", "download", *packages), downloads)
            raise StackError(f"apt-get cannot download {' '.join(packages)}: {said[-300:]}")
        unfinished = root.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        for archive in archives:
            _run(("dpkg-deb", "--extract", str(archive), str(unfinished)), downloads)
        unfinished.rename(root)


def _run(command: Sequence[str], folder: str) -> str:
    """What a command complained about; nothing where it did what it was to do."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"status {done.returncode}" if done.returncode else ""
