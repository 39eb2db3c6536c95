"""ansible-lint for `test`: runs beside the other linters, and
only if a file that it checks has changed since it last passed.

It takes a minute of processor time.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# The configuration of ansible-lint, the locked versions of it and of Ansible, and files that it checks.
_FILES = (".ansible-lint", "ansible.cfg", "requirements-dev.txt", "site.yml")
_FOLDERS = ("roles", "playbooks", "inventories", "plugins")


class AnsibleLint:
    """A run of ansible-lint in the background, if a run is needed."""

    def __init__(self, root: Path) -> None:
        self._passed, self._fingerprint = root / ".venv" / ".ansible-lint-passed", _fingerprint(root)
        self._process: subprocess.Popen[bytes] | None = None
        if not self._passed.exists() or self._passed.read_text() != self._fingerprint:
            program = str(Path(sys.executable).with_name("ansible-lint"))
            self._process = subprocess.Popen(
                [program, "-q"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )

    def finish(self) -> tuple[bool, str]:
        """Wait for the run. Returns whether it passed, and its output if not."""
        if self._process is None:
            return True, ""
        said, _ = self._process.communicate()
        if self._process.returncode == 0:
            self._passed.write_text(self._fingerprint)
            return True, ""
        return False, said.decode(errors="replace")


def _fingerprint(root: Path) -> str:
    digest = hashlib.sha256()
    for path in _looked_at(root):
        digest.update(f"{path.relative_to(root)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _looked_at(root: Path) -> Iterator[Path]:
    yield from (root / name for name in _FILES)
    for folder in _FOLDERS:
        yield from sorted(path for path in (root / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
