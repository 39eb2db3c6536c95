"""The root file systems that hosts are made from: built once by debootstrap, then the lower layer of every host."""

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from tests.support.hosts.machine import run

RELEASES = ("bookworm", "trixie")
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "python3", "openssh-server", "sudo"),
    *("iproute2", "ca-certificates", "procps"),
)
# Their files lie in apt's cache and are not installed: a package that a role forgets is still missing, and one that a
# role asks for is not fetched again for each host. A host fetches what is not named here, or is newer by now.
_FETCHED = (
    *("python3-apt", "nftables", "systemd-timesyncd", "redis-server", "postgresql", "python3-psycopg2"),
    *("python3-venv", "postgresql-client", "python3-cryptography", "dovecot-imapd", "hello"),
)
# Made anew when something below changes what is in them.
_EDITION = 2
_NETWORK = """\
[Match]
Name=host0
[Network]
DHCP=no
LinkLocalAddressing=no
"""


def root_file_system(release: str) -> Path:
    """A release's root file system; built if it is not there (some two minutes), by one process at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metabuilder" / "hosts"
    cache.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{_EDITION} {_PACKAGES} {_FETCHED} {os.uname().machine}".encode()).hexdigest()[:12]
    root = cache / f"{release}-{key}"
    with (cache / f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _build(release, root)
    return root


def _build(release: str, root: Path) -> None:
    unfinished = root.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    # In a mount name space of its own: what it mounts goes with it, also when it is killed.
    run(
        "unshare",
        "--mount",
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        release,
        unfinished,
    )
    # It sorts before 80-container-host0.network, which asks for an address by DHCP.
    (unfinished / "etc/systemd/network/10-host0.network").write_text(_NETWORK)
    run("systemctl", f"--root={unfinished}", "enable", "systemd-networkd.service", "ssh.service")
    (unfinished / "var/log/journal").mkdir(exist_ok=True)  # the journal outlives a reboot
    (unfinished / "etc/apt/apt.conf.d/no-translations").write_text('Acquire::Languages "none";\n')
    shutil.rmtree(unfinished / "var/cache/apt/archives", ignore_errors=True)
    (unfinished / "var/cache/apt/archives/partial").mkdir(parents=True)
    _fetch(unfinished)
    unfinished.rename(root)


def _fetch(root: Path) -> None:
    """Leave apt's lists, and the packages that the roles install, in apt's cache."""
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    run("chroot", root, "apt-get", "--quiet", "--quiet", "update")
    options = ("--quiet", "--quiet", "--yes", "--no-install-recommends", "--download-only")
    run("chroot", root, "apt-get", "install", *options, *_FETCHED)
