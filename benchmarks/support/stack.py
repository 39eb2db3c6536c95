"""A stack of real servers for a benchmark: Dovecot, PostgreSQL, Redis and a Celery worker with one child."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import psycopg2
from cryptography.fernet import Fernet

from native.dovecot import Dovecot
from native.postgres import OWNER, SUPERUSER, WORKER, libpq
from native.process import Server
from tests.support.servers import PostgresServer, RedisServer

PASSWORD = "sample-benchmark-password"
TENANT, USER = "bench", "bench"
OURS = "tasks.celery_app:celery_app"
_TASK_SECONDS = 3600
_LOOK_SECONDS = 0.02


class Program(Server):
    """A program of ours, configured by this process's environment."""

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


class Worker(Program):
    """A Celery worker with so many children and all queues or some."""

    name = "worker"

    def __init__(self, root: Path, children: int = 1, app: str = OURS, queues: str = "") -> None:
        super().__init__(root)
        self.children, self.app, self.queues = children, app, queues

    def command(self) -> list[str]:
        options = [
            "--pool=prefork",
            f"--concurrency={self.children}",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=INFO",
            f"--hostname=bench-{self.root.name}@%h",
            *([f"--queues={self.queues}"] if self.queues else []),
        ]
        return [sys.executable, "-m", "celery", "-A", self.app, "worker", *options]

    def is_ready(self) -> bool:
        from tasks.celery_app import celery_app

        answers = celery_app.control.ping(timeout=0.5)
        return any(name.startswith(f"bench-{self.root.name}@") for answer in answers for name in answer)

    def memory_mb(self) -> float:
        """What the worker and its children hold now (PSS), in MB of 1,000,000 bytes."""
        processes = [psutil.Process(self.pid), *self._processes()]
        return float(sum(process.memory_full_info().pss for process in processes)) / 1e6

    def child_peak_mb(self) -> float:
        """The most memory that a child has held so far, in MB of 1,000,000 bytes."""
        return max(map(_peak_mb, psutil.Process(self.pid).children()))

    @contextmanager
    def watched(self) -> Iterator["PeakMemory"]:
        """The memory of the child, and of what it starts, while the block runs."""
        peak = PeakMemory(psutil.Process(self.pid).children()[0])
        thread = Thread(target=peak.watch, daemon=True)
        thread.start()
        yield peak
        peak.done.set()
        thread.join()

    def cpu_seconds(self) -> float:
        """CPU time of the worker so far, with its children and with those of them that have ended."""
        processes = [psutil.Process(self.pid), *self._processes()]
        return float(sum(sum(process.cpu_times()[:4]) for process in processes))

    def child_cpu_seconds(self) -> float:
        """CPU time of the child so far: it hardly depends on what else the machine does."""
        return float(sum(sum(child.cpu_times()[:2]) for child in self._processes()))

    def _processes(self) -> list[psutil.Process]:
        return list(psutil.Process(self.pid).children(recursive=True))


class Watcher(Program):
    """The watcher."""

    name = "watcher"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tasks.watch"]

    def is_ready(self) -> bool:
        from tasks.storage.accounts.watches import living_watchers

        return bool(living_watchers())

    def memory_kb(self) -> float:
        """What it holds for itself (USS), in kB of 1,000 bytes. The kernel's buffers of its sockets are left out."""
        return float(psutil.Process(self.pid).memory_full_info().uss) / 1000

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        return float(sum(psutil.Process(self.pid).cpu_times()[:2]))


class PeakMemory:
    """The most memory (VmHWM) that a process has held, and that those it started have, in MB of 1,000,000 bytes.

    What it started is a sum of peaks of processes that live at once: never less than what they held together.
    """

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.done = Event()
        self.own = self.started = 0.0

    def watch(self) -> None:
        """Look until `done` is set."""
        while not self.done.wait(_LOOK_SECONDS):
            self.own = max(self.own, _peak_mb(self._process))
            self.started = max(self.started, sum(map(_peak_mb, self._process.children(recursive=True))))


def _peak_mb(process: psutil.Process) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{process.pid}/status").read_text()
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(found[1]) * 1024 / 1e6
    return 0.0


class Stack:
    """The servers, and what a benchmark does with them."""

    def __init__(self, root: Path, dovecot: Dovecot, postgres: PostgresServer, redis: RedisServer) -> None:
        self.root, self.dovecot, self.postgres, self.redis = root, dovecot, postgres, redis
        self._databases = self._workers = self._watchers = 0
        self._database = ""

    def maildir(self, user: str) -> Path:
        return self.root / "mail" / user

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """An empty database and a fresh worker on it."""
        with self.database(), self.started_worker() as worker:
            yield worker

    @contextmanager
    def started_worker(self, children: int = 1, app: str = OURS, queues: str = "") -> Iterator[Worker]:
        """A fresh worker on the database at hand."""
        self._workers += 1
        folder = self.root / f"worker-{self._workers}"
        folder.mkdir()
        with Worker(folder, children, app, queues) as worker:
            yield worker

    @contextmanager
    def started_watcher(self) -> Iterator[Watcher]:
        """A watcher on the database at hand."""
        self._watchers += 1
        folder = self.root / f"watcher-{self._watchers}"
        folder.mkdir()
        with Watcher(folder) as watcher:
            yield watcher

    @contextmanager
    def database(self) -> Iterator[None]:
        """An empty database."""
        from tasks import settings
        from tasks.storage import session
        from tasks.storage.migrate import upgrade

        self._databases += 1
        name = f"bench_{self._databases}"
        self.postgres.create_database(name)
        os.environ["DATABASE_URL"] = self.postgres.url(WORKER, name)
        settings.get_settings.cache_clear()
        upgrade(self.postgres.url(OWNER, name))
        self._database = name
        yield
        session.get_engine().dispose()
        session.get_engine.cache_clear()
        self.postgres.drop_database(name)

    def as_superuser(self, statement: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement in the database at hand, beyond the reach of row-level security; its rows."""
        with closing(psycopg2.connect(libpq(self.postgres.url(SUPERUSER, self._database)))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []

    @contextmanager
    def large_folders(self) -> Iterator[Dovecot]:
        """A second Dovecot, which keeps mail as mdbox."""
        mail = self.root / "mdbox"
        location = f"mail_location = mdbox:{mail}/%u"
        with Dovecot(self.root / "dovecot-mdbox", mail, PASSWORD, extra_config=location) as dovecot:
            yield dovecot

    def add_account(self, user: str, dovecot: Dovecot | None = None, name: str = "") -> str:
        """Register a user's mailbox, under another name too; the id of the account."""
        from tasks.storage.accounts.rows import NewAccount, add_account

        server = dovecot or self.dovecot
        new = NewAccount(name or user, f"{user}@example.net", server.host, server.port, "none", user, PASSWORD)
        return add_account(TENANT, USER, new)

    def sync(self, account_id: str) -> dict[str, Any]:
        """Sync through the broker and the worker, and the task's result."""
        from tasks.celery_app import sync_emails

        result: dict[str, Any] = sync_emails.delay(account_id, TENANT, USER).get(
            timeout=_TASK_SECONDS, interval=0.005
        )
        if result["status"] != "success":
            raise SystemExit(f"the sync did not succeed: {result}")
        return result


@contextmanager
def running(root: Path, postgres_settings: Mapping[str, str | int] | None = None) -> Iterator[Stack]:
    """Start the servers under `root`, stop them afterwards. PostgreSQL is the distribution's where there is one."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    dovecot = Dovecot(root / "dovecot", root / "mail", PASSWORD)
    bin_dir = installed[-1] if installed else None
    postgres = PostgresServer(root / "postgres", bin_dir=bin_dir, settings=postgres_settings)
    with dovecot, postgres, RedisServer(root / "redis") as redis:
        os.environ.update(
            REDIS_URL=redis.url,
            CREDENTIAL_ENCRYPTION_KEY=Fernet.generate_key().decode(),
            MAIL_ALLOWED_NETWORKS="127.0.0.0/8",
            TASK_TIMEOUT=str(_TASK_SECONDS + 100),
            CELERY_TASK_SOFT_TIME_LIMIT=str(_TASK_SECONDS),
            CELERY_VISIBILITY_TIMEOUT=str(3 * _TASK_SECONDS),
        )
        yield Stack(root, dovecot, postgres, redis)
