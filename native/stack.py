"""Starts and stops the native stack.

    down → (up) → configured → servers ready → schema migrated → application running and consuming

A program of the application can also be started, stopped and restarted alone.

`up` may be repeated at any time: it starts what is missing, restarts the application when its configuration has
changed, and leaves the rest alone. Programs of a killed supervisor are found by the process ids that they noted
(native/run.py), and are stopped before new programs start.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import psutil

from native import TENANT, admin_uis, demo, health, inbox, stores
from native.check import Check
from native.environment import (
    DATABASE_VARIABLES,
    REDIS_VARIABLES,
    RESULTS_VARIABLES,
    apply,
    effective,
    embedded_postgres,
    embedded_redis,
    given,
    is_external,
    make_secrets,
    write_client,
)
from native.errors import StackError
from native.ports import wait_until_answers
from native.process import wait_until_gone
from native.programs import APPLICATION, PORTS, SERVERS, choose_ports, programs
from native.state import State, read_json, write_json
from native.supervisor import Program, Status, Supervisor, noted_pid

Say = Callable[[str], None]
_SERVER_SECONDS = 30
_APPLICATION_SECONDS = 90
_PAGES = {**admin_uis.TITLES, inbox.NAME: inbox.TITLE}
_ALL = (*APPLICATION, *_PAGES, *SERVERS)
# How servers that the operator has named are checked.
_EXTERNAL = (
    (REDIS_VARIABLES, stores.redis_answers),
    (RESULTS_VARIABLES, stores.results_answer),
    (DATABASE_VARIABLES, stores.postgres_answers),
)


@dataclass(frozen=True)
class Started:
    """What `up` did: whether it changed anything, and the ports in use."""

    changed: bool
    ports: dict[str, int]


class Stack:
    """The native stack of one state folder.

    Make only one Stack in a process, because it reads the process's environment.
    """

    def __init__(self, state: State, say: Say) -> None:
        self.state = state
        self.supervisor = Supervisor(state)
        self._say = say
        self._operator = given()
        # The variables that programs inherit. Settings reach programs only through environment.json, so that a
        # setting that is taken out of .env is gone after the next `up`.
        self._inherited = {name: value for name, value in os.environ.items() if name not in self._operator}

    def up(self, *, with_admin: bool | None = None, with_inbox: bool | None = None) -> Started:
        """Start the programs that are down, and wait until all work.

        `with_admin` and `with_inbox` say whether the admin pages and the example application are to run; None leaves
        that as it was.

        Raises what `check` raises, StackError or EmailError.
        """
        self.check()
        self.state.create()
        with self.state.locked():
            alive = self.supervisor.is_alive()
            if not alive:
                self._stop_orphans()
            ports = choose_ports(self.state, self._operator, self._names_running())
            self._note_wanted(with_admin=with_admin, with_inbox=with_inbox)
            environment = effective(self.state, self._operator, ports)
            os.environ.update(environment)
            write_client(self.state, self._operator, ports)
            pages = self._pages(ports)
            wanted = [*programs(self.state, self._operator, ports), *pages]
            changed = self._configure(wanted, environment, ports)
            running = self._names_running()
            names = {program.name for program in wanted}
            if alive and not changed and names == running:
                _require(stores.redis_answers(), stores.postgres_answers())
                return Started(False, ports)
            self._prepare_servers(names - running, ports)
            self._start_supervisor(alive)
            if changed and alive:
                self._say("The configuration has changed: restarting the application")
                self.supervisor.stop(APPLICATION)
            self._start_servers(names, ports)
            self._migrate(environment)
            if "demo-imap" in names:
                demo.follow_servers(TENANT, ports["demo-imap"], ports["demo-smtp"])
            self._start_application([name for name in APPLICATION if name in names], ports)
            self._start_pages(pages, ports)
        return Started(True, ports)

    def down(self) -> bool:
        """Stop everything; False when nothing ran."""
        if not self.state.folder.exists():
            return False
        self.state.create()
        with self.state.locked():
            if not self.supervisor.is_alive():
                return self._stop_orphans()
            self._say("Stopping the application (a task at work is allowed to finish)")
            self.supervisor.stop((*APPLICATION, *_PAGES))
            self.supervisor.stop(SERVERS)
            self.supervisor.shut_down()
        return True

    def start(self, name: str) -> bool:
        """Start one program of the application, and wait until it does its work; False when it ran already.

        Raises StackError where the stack is down, or the program does not come up.
        """
        with self._running():
            if self._known(name).is_running:
                return False
            self._start_alone(name)
        return True

    def stop(self, name: str) -> bool:
        """Stop one program of the application, until `start` or `up`; False when it did not run.

        A worker first finishes the tasks that it is at. Raises StackError where the stack is down.
        """
        with self._running():
            return bool(self.supervisor.stop([name]))

    def restart(self, name: str) -> None:
        """Stop one program of the application, start it, and wait until it does its work. Raises as `start`."""
        with self._running():
            self._known(name)
            self.supervisor.stop([name])
            self._start_alone(name)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The environment of the running stack, in which nobody else starts or stops programs."""
        apply(self.state)
        with self.state.locked():
            if not self.supervisor.is_alive():
                raise StackError("the native stack is down: ./manage.sh up")
            yield

    def _known(self, name: str) -> Status:
        """The state of a program of this stack. Raises StackError for one that the settings leave out."""
        if status := self.supervisor.status().get(name):
            return status
        raise StackError(f"{name} is not a program of this stack: WATCH_ENABLED is false")

    def _start_alone(self, name: str) -> None:
        began = time.monotonic()
        self.supervisor.start_program(name)
        self._await_application(name, self.state.read()["ports"], began)

    def check(self) -> None:
        """Check what the operator has set, before anything is made or started.

        Raises ConfigurationError that names every variable that is wrong, and StackError for a server that is named
        and does not do its work.
        """
        from tasks.settings import load

        os.environ.update(self._operator)
        load()
        for variables, check in _EXTERNAL:
            if is_external(variables, self._operator):
                _require(check())

    def _configure(self, wanted: list[Program], environment: Mapping[str, str], ports: Mapping[str, int]) -> bool:
        """Write the files from which programs are started. Returns whether the application's files have changed."""
        commands = {
            program.name: {
                "command": program.command,
                "environment": program.needs_environment,
                "withheld": program.withheld,
                "own_environment": program.own_environment,
            }
            for program in wanted
        }
        before = read_json(self.state.environment), _application(read_json(self.state.programs))
        write_json(self.state.environment, dict(environment))
        write_json(self.state.programs, commands)
        after = read_json(self.state.environment), _application(read_json(self.state.programs))
        write_json(self.state.stack, {**self.state.read(), "ports": dict(ports)})
        self.supervisor.configure(wanted)
        return before != after

    def _prepare_servers(self, starting: set[str], ports: Mapping[str, int]) -> None:
        generated = make_secrets(self.state)
        if "redis" in starting:
            redis = embedded_redis(self.state, generated, ports["redis"])
            redis.init()
            if mended := redis.mend():
                self._say(f"WARNING: {mended}")
        if "postgres" in starting:
            if not self.state.postgres.exists():
                self._say("Making the PostgreSQL database")
            embedded_postgres(self.state, generated, ports["postgres"]).init()
        if "demo-imap" in starting:
            demo.server(self.state, generated["DEMO_PASSWORD"], ports["demo-imap"]).init()
        for name in sorted(starting & set(PORTS)):
            if ports[name] != PORTS[name]:
                self._say(f"Port {PORTS[name]} is taken, {name} uses {ports[name]}")

    def _start_supervisor(self, alive: bool) -> None:
        if alive:
            self.supervisor.reload()
        else:
            self._say("Starting supervisord")
            self.supervisor.start(self._inherited)

    def _start_servers(self, names: set[str], ports: Mapping[str, int]) -> None:
        generated = make_secrets(self.state)
        for name in SERVERS:
            if name in names:
                self.supervisor.start_program(name)
        if "redis" in names:
            redis = embedded_redis(self.state, generated, ports["redis"])
            self._await("redis", redis.pongs, _SERVER_SECONDS, redis.advice)
            self._say(f"Redis is ready on 127.0.0.1:{ports['redis']}")
        if "postgres" in names:
            postgres = embedded_postgres(self.state, generated, ports["postgres"])
            self._await("postgres", postgres.accepts, _SERVER_SECONDS)
            postgres.provision()
            self._say(f"PostgreSQL is ready on 127.0.0.1:{ports['postgres']}")
        if "demo-imap" in names:
            for name in demo.SERVERS:
                self._await(name, partial(wait_until_answers, ports[name], 0.2), _SERVER_SECONDS)
            imap, smtp = ports["demo-imap"], ports["demo-smtp"]
            self._say(f"The demo mailbox is served on 127.0.0.1:{imap}, and takes mail on 127.0.0.1:{smtp}")
        for kind, variables in (("redis", REDIS_VARIABLES), ("postgres", DATABASE_VARIABLES)):
            if is_external(variables, self._operator):
                self._say(f"Using the {kind} that is configured")

    def _migrate(self, environment: Mapping[str, str]) -> None:
        from tasks.storage.migrate import current_and_head, finish, upgrade

        current, head = current_and_head(environment["DATABASE_OWNER_URL"])
        if current != head:
            upgrade(environment["DATABASE_OWNER_URL"])
            self._say(f"The database schema is at {head}" + (f" (was {current})" if current else ""))
        finish(environment["DATABASE_OWNER_URL"])  # all workers start after this

    def _start_application(self, names: Sequence[str], ports: Mapping[str, int]) -> None:
        began = time.monotonic()
        for name in names:
            self.supervisor.start_program(name)
        for name in names:
            self._await_application(name, ports, began)

    def _await_application(self, name: str, ports: Mapping[str, int], began: float) -> None:
        """Wait until a program does its work that was started at that moment of the monotonic clock."""
        is_ready, said = {
            "worker": (_worker_consumes, "The worker consumes"),
            "beat": (lambda: self._beat_ticks(began), "beat keeps the schedule"),
            "flower": (
                lambda: health.flower_answers(ports["flower"]).ok,
                f"Flower is ready on http://127.0.0.1:{ports['flower']}",
            ),
            "exporter": (
                lambda: health.exporter_answers(ports["exporter"]).ok,
                f"Metrics are served on http://127.0.0.1:{ports['exporter']}/metrics",
            ),
            "watcher": (lambda: health.watcher_is_alive(self.state).ok, "The watcher watches mailboxes"),
        }[name]
        self._await(name, is_ready, _APPLICATION_SECONDS)
        self._say(said)

    def _beat_ticks(self, began: float) -> bool:
        """Whether beat has looked at its schedule since it was started."""
        _require(stores.redis_answers())
        silence = health.beat_silence()
        return silence is not None and silence < time.monotonic() - began

    def _note_wanted(self, **pages: bool | None) -> None:
        """Note which pages are wanted; None leaves a note as it was."""
        asked = {name: wanted for name, wanted in pages.items() if wanted is not None}
        write_json(self.state.stack, {**self.state.read(), **asked})

    def _pages(self, ports: Mapping[str, int]) -> list[Program]:
        """The pages that are wanted and can be had. Says why another cannot."""
        noted = self.state.read()
        found: list[Program] = []
        lacking: dict[str, str] = {}
        changed: list[str] = []
        if noted.get("with_admin"):
            found += admin_uis.programs(self.state, ports)
            lacking |= admin_uis.lacking(self._operator, self.state)
            changed += admin_uis.write_environments(self.state, ports)
        if noted.get("with_inbox"):
            found.append(inbox.program(ports[inbox.NAME]))
            lacking |= inbox.lacking(self._operator)
            changed += inbox.write_environment(self.state, ports)
        for name, why in lacking.items():
            self._say(f"{_PAGES[name]} is not started: {why}")
        self.supervisor.stop(changed)  # they read their environments when they start
        return [page for page in found if page.name not in lacking]

    def _names_running(self) -> set[str]:
        return {name for name, status in self.supervisor.status().items() if status.is_running}

    def _start_pages(self, pages: list[Program], ports: Mapping[str, int]) -> None:
        for page in pages:
            self.supervisor.start_program(page.name)
        for page in pages:
            name, port = page.name, ports[page.name]
            self._await(name, partial(_page_answers, name, port), _APPLICATION_SECONDS)
            self._say(f"{_PAGES[name]} is ready on http://127.0.0.1:{port}")

    def _await(
        self, name: str, is_ready: Callable[[], bool], seconds: float, advise: Callable[[str], str] | None = None
    ) -> None:
        deadline = time.monotonic() + seconds
        while not is_ready():
            known = self.supervisor.status().get(name)
            failed = known is not None and known.state in ("FATAL", "EXITED", "STOPPED")
            if failed or time.monotonic() > deadline:
                said = self._last_words(name)
                raise StackError(
                    f"{name} did not become ready: {said}. {advise(said) if advise else ''}".rstrip(" .")
                )
            time.sleep(0.1)

    def _last_words(self, name: str) -> str:
        log = self.state.logs / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        said = [line for line in lines if line.strip()][-3:]
        return " | ".join(said) + f" (all of it: ./manage.sh logs {name})"

    def _stop_orphans(self) -> bool:
        """Stop programs that a killed supervisor left behind. Returns whether there were any."""
        found = [(name, pid) for name in _ALL if (pid := noted_pid(self.state, name)) is not None]
        for group in ((*APPLICATION, *_PAGES), SERVERS):
            self._end({name: pid for name, pid in found if name in group})
        return bool(found)

    def _end(self, orphans: Mapping[str, int]) -> None:
        everything: list[psutil.Process] = []
        for name, pid in orphans.items():
            self._say(f"Stopping {name} (process {pid}), left behind by a supervisor that was killed")
            process = psutil.Process(pid)
            everything += [process, *process.children(recursive=True)]
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        for process in wait_until_gone(everything, _SERVER_SECONDS):
            process.kill()
        wait_until_gone(everything, 5)


def _worker_consumes() -> bool:
    """Whether the worker runs tasks. Raises StackError where Redis fails, of which the worker is not guilty."""
    _require(stores.redis_answers())
    return health.worker_consumes(patience=5).ok


def _page_answers(name: str, port: int) -> bool:
    return health.page_answers(name, port).ok


def _require(*checks: Check) -> None:
    for check in checks:
        if not check.ok:
            raise StackError(f"{check.component}: {check.detail}. {check.advice}")


def _application(commands: Mapping[str, object]) -> dict[str, object]:
    return {name: command for name, command in commands.items() if name in APPLICATION}
