"""Starts servers that refuse to run as root, also when root starts the stack.

PostgreSQL never runs as root, and Dovecot as root wants system users of its own. An ordinary
user starts these servers directly. Root starts them in a user namespace in which root's own
files belong to `nobody`: nothing changes owner, no system user is added, and a signal from
outside reaches them. Where the machine permits no namespaces (most containers), the servers
run as the real `nobody`, who then has to own their folders and be able to reach these.
"""

import grp
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from native.errors import StackError

_NOBODY = 65534


@dataclass(frozen=True)
class Identity:
    """The identity that a server runs with: the command to put
    before the server's own, and the ids that the server sees."""

    prefix: tuple[str, ...]
    uid: int
    gid: int
    must_own_files: bool = False

    @property
    def user(self) -> str:
        """The name of the user `uid`, or the number if there is no name."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    @property
    def group(self) -> str:
        """The name of the group `gid`, or the number if there is no name."""
        try:
            return grp.getgrgid(self.gid).gr_name
        except KeyError:
            return str(self.gid)

    def hand_over(self, folder: Path) -> None:
        """Make `folder` and everything in it usable by this identity.

        Raises StackError if the identity cannot reach the folder.
        """
        owner = self.uid if self.must_own_files else os.geteuid()
        if self.must_own_files or folder.stat().st_uid != owner:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, owner, self.gid if self.must_own_files else os.getegid(), follow_symlinks=False)
        if self.must_own_files:
            self._let_pass(folder)

    def _let_pass(self, folder: Path) -> None:
        # The parent folder stays root's; this identity may pass through the parent, but not list it.
        os.chown(folder.parent, -1, self.gid)
        folder.parent.chmod(folder.parent.stat().st_mode & 0o777 | 0o010)
        if subprocess.run([*self.prefix, "test", "-w", str(folder)], check=False).returncode:
            raise StackError(
                f"the user {self.user} cannot enter {folder}. PostgreSQL and Dovecot run as this user, because they "
                "refuse root and this machine permits no user namespaces: run the command as an ordinary user, or "
                "set METABUILDER_STATE to a folder whose parents everybody may enter"
            )


@lru_cache(maxsize=1)
def identity() -> Identity:
    """The identity for servers that refuse root. Raises StackError if root cannot run them as another user."""
    if os.geteuid() != 0:
        return Identity((), os.geteuid(), os.getegid())
    namespace = Identity(
        ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--"), _NOBODY, _NOBODY
    )
    nobody = Identity(
        ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--"),
        _NOBODY,
        _NOBODY,
        must_own_files=True,
    )
    for found in (namespace, nobody):
        if _works(found.prefix, "true"):
            _require_reach(found)
            return found
    raise StackError(
        "PostgreSQL refuses to run as root, and neither `unshare --user` nor `setpriv` works here: "
        "run the command as an ordinary user, or install the package util-linux"
    )


def _require_reach(found: Identity) -> None:
    """Check that the identity can reach the folders: without its
    privileges, root cannot enter private folders such as a home."""
    if not _works(found.prefix, "test", "-x", sys.prefix):
        raise StackError(
            f"{sys.prefix} is in a folder that other users cannot enter, and PostgreSQL refuses to run as root: "
            f"run the command as {Path(sys.prefix).owner()}, or from a clone in a folder that everybody may enter"
        )


def _works(prefix: tuple[str, ...], *command: str) -> bool:
    if shutil.which(prefix[0]) is None:
        return False
    return subprocess.run([*prefix, *command], capture_output=True, check=False).returncode == 0
