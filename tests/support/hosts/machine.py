"""What this machine must have, and how its programs are run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
_PATH = f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"

# The program, and the Debian package that brings it.
PACKAGES = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
}


class HostsError(Exception):
    """Test hosts cannot be had, or do not behave."""


def missing() -> list[str]:
    """What keeps this machine from having test hosts, each as a sentence; empty where it can."""
    if sys.platform != "linux":
        return [f"test hosts need Linux, this is {sys.platform}"]
    found = [
        f"{program} is not installed: apt-get install {package}"
        for program, package in PACKAGES.items()
        if shutil.which(program, path=_PATH) is None
    ]
    if os.geteuid() != 0:
        found.append("test hosts need root (containers, bridges and mounts are made)")
    elif "overlay" not in Path("/proc/filesystems").read_text() and not _succeeds("modprobe", "overlay"):
        found.append("this kernel has no overlayfs")
    return found


def run(*command: str | Path, stdin: str | None = None) -> str:
    """What a program prints. Raises HostsError with what it said when it fails."""
    environment = {**os.environ, "PATH": _PATH, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [str(part) for part in command], input=stdin, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HostsError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout


def _succeeds(*command: str) -> bool:
    try:
        run(*command)
    except (HostsError, OSError):
        return False
    return True
