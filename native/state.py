"""The state folder: everything the native stack keeps, in one place that is closed to others (0700).

postgres/ redis/         data
logs/                    one file a program, rotated by the supervisor
flower/                  the tasks that Flower remembers
run/                     sockets and the process ids of the programs
adminer/                 sessions of Adminer
redis-commander-*/       Redis Commander, as npm has put it together
demo/                    the demo mailbox and its server
secrets.env              passwords and the encryption key, made once (0600)
client.env               what an application connects with (0600)
environment.json         what the worker, beat and Flower are started with (0600)
programs.json            the commands of the programs
adminer.json redis-commander.json inbox.json    what these are started with (0600)
stack.json               ports and versions, and whether the admin pages and the inbox are wanted
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from native.errors import StackError

ROOT = Path(__file__).resolve().parent.parent
# Limit for the path of the folder with sockets: the path of a socket must fit into 107 bytes.
_MAX_RUN_SECONDS = 107 - len("/.s.PGSQL.65535.lock")


class State:
    """Paths in the state folder, and its small files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.postgres = self.folder / "postgres"
        self.redis = self.folder / "redis"
        self.logs = self.folder / "logs"
        self.flower = self.folder / "flower"
        self.demo = self.folder / "demo"
        self.secrets = self.folder / "secrets.env"
        self.client = self.folder / "client.env"
        self.environment = self.folder / "environment.json"
        self.programs = self.folder / "programs.json"
        self.stack = self.folder / "stack.json"
        self.supervisor_config = self.folder / "supervisord.conf"

    @classmethod
    def default(cls) -> "State":
        """The state folder that METABUILDER_STATE names, otherwise `.state` in the clone."""
        return cls(Path(os.environ.get("METABUILDER_STATE") or ROOT / ".state"))

    @property
    def run(self) -> Path:
        """The folder of sockets: `run/`, or a short path of this user's in the temporary folder."""
        inside = self.folder / "run"
        if len(str(inside)) <= _MAX_RUN_SECONDS:
            return inside
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"metabuilder-{os.geteuid()}-{name}"

    @property
    def socket(self) -> Path:
        """Where the supervisor listens."""
        return self.run / "supervisor.sock"

    def create(self) -> None:
        """Make the folders. Raises StackError when they cannot be made or belong to somebody else."""
        try:
            for folder in (self.folder, self.logs, self.flower, self.run):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.folder, self.run):
                if folder.stat().st_uid != os.geteuid():
                    raise StackError(f"{folder} belongs to another user: set METABUILDER_STATE to one of your own")
                folder.chmod(0o700)
        except OSError as error:
            raise StackError(
                f"the state folder {self.folder} cannot be made ({error.strerror}): "
                "set METABUILDER_STATE to a folder that you may write"
            ) from error

    def purge(self) -> None:
        """Delete the folder with all data in it."""
        for folder in (self.run, self.folder):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A lock, so that only one `up`, `down` or `restart` runs at a time."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self) -> dict[str, Any]:
        """`stack.json`; empty before the first start."""
        return read_json(self.stack)

    def port(self, program: str) -> int | None:
        """The port that was chosen for a program."""
        port = self.read().get("ports", {}).get(program)
        return int(port) if port else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when there is none."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner may read. A reader sees the old or the new content, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the start
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(name).replace(path)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object for its owner only."""
    write_private(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
