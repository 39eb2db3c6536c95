"""The programs of the stack: their commands, how they are stopped, and which port each prefers."""

import sys
from collections.abc import Mapping

from native import demo
from native.dovecot import Dovecot
from native.environment import (
    DATABASE_VARIABLES,
    REDIS_VARIABLES,
    embedded_postgres,
    embedded_redis,
    is_external,
    make_secrets,
)
from native.ports import LOOPBACK, free_port
from native.pymap import Pymap
from native.state import State
from native.supervisor import Program

PORTS = {
    "redis": 6379,
    "postgres": 5432,
    "flower": 5556,
    "exporter": 8000,
    "demo-imap": 1143,
    "demo-smtp": 1025,
    "adminer": 8082,
    "redis-commander": 8083,
    "inbox": 8084,
}
SERVERS = ("redis", "postgres", *demo.SERVERS)
APPLICATION = ("worker", "beat", "flower", "exporter", "watcher")
# Programs whose port the operator may ask for.
_ASKED = {"flower": "FLOWER_PORT", "exporter": "PROMETHEUS_PORT"}
# How many seconds longer than a task's time limit a stopping worker may take, so that a drain is not cut short.
_DRAIN_MARGIN_SECONDS = 20
# Flower's history outlives a restart. It is bounded: in tasks, and in the seconds for which a worker that is gone is
# shown. It is written to disk every so many milliseconds, and at the end.
FLOWER_REMEMBERS = (
    *("--persistent=True", "--max-tasks=10000", "--purge-offline-workers=86400"),
    "--state-save-interval=60000",
)
# Secrets that are withheld from programs: only `up` and `health` act as the owner of the tables, only Flower and the
# exporter check Flower's password, and only programs that run tasks need the keys.
_OF_OWNER, _OF_FLOWER = "DATABASE_OWNER_URL", "FLOWER_BASIC_AUTH"
_OF_SPAM = ("SPAM_API_ENABLED", "SPAM_API_URL")
_KEYS = ("CREDENTIAL_ENCRYPTION_KEY", *_OF_SPAM)
_OF_WORKERS = ("DATABASE_URL", *_KEYS)


def choose_ports(state: State, operator: Mapping[str, str], running: set[str]) -> dict[str, int]:
    """A port for every program. A running program keeps its port; another gets the port that it had or prefers if
    that is free, else a free port."""
    remembered = state.read().get("ports", {})
    asked = {**PORTS, **remembered}
    for name, variable in _ASKED.items():
        if operator.get(variable):
            asked[name] = int(operator[variable])
            if asked[name] != remembered.get(name):
                running = running - {name}
    ports: dict[str, int] = {}
    for name, port in asked.items():
        ports[name] = port if name in running else free_port(port, taken=set(ports.values()))
    return ports


def programs(state: State, operator: Mapping[str, str], ports: Mapping[str, int]) -> list[Program]:
    """The programs of this stack, in the order in which they start. The environment must be in effect."""
    from tasks.settings import load

    settings = load()
    generated = make_secrets(state)
    found: list[Program] = []
    if not is_external(REDIS_VARIABLES, operator):
        redis = embedded_redis(state, generated, ports["redis"])
        found.append(Program("redis", tuple(redis.command()), needs_environment=False))
    if not is_external(DATABASE_VARIABLES, operator):
        postgres = embedded_postgres(state, generated, ports["postgres"])
        # SIGINT: the fast shutdown. SIGTERM would wait for every client to leave.
        found.append(Program("postgres", tuple(postgres.command()), "INT", 60, needs_environment=False))
    if imap := demo_server(state, generated, ports["demo-imap"]):
        found.append(Program("demo-imap", tuple(imap.command()), needs_environment=False))
        smtp = demo.smtp_command(state, ports["demo-smtp"])
        found.append(Program("demo-smtp", tuple(smtp), needs_environment=False))
    drain = settings.worker.task_soft_time_limit + _DRAIN_MARGIN_SECONDS
    worker = (
        *("worker", "--concurrency", str(settings.worker.concurrency), "-n", "worker@%h"),
        *("--without-mingle", "--without-gossip"),  # these would cost a second at the start, to hear of other workers
    )
    worker_command = _celery(*worker, "--loglevel", settings.log.level)
    beat_command = _celery("beat", "--pidfile=", "--loglevel", settings.log.level)
    flower = (
        f"--address={LOOPBACK}",
        f"--port={ports['flower']}",
        f"--db={state.flower / 'flower'}",
        *FLOWER_REMEMBERS,
    )
    flower_command = _celery("flower", *flower)
    exporter_command = (sys.executable, "-m", "tasks.exporter")
    watcher_command = (sys.executable, "-m", "tasks.watch")
    watcher = Program("watcher", watcher_command, stop_seconds=8, withheld=(_OF_OWNER, _OF_FLOWER, *_OF_SPAM))
    return [
        *found,
        Program("worker", worker_command, stop_seconds=drain, withheld=(_OF_OWNER, _OF_FLOWER)),
        # These have no work to finish, and may hang while the broker is away.
        Program("beat", beat_command, stop_seconds=8, withheld=(_OF_OWNER, _OF_FLOWER, *_KEYS)),
        Program("flower", flower_command, stop_seconds=8, withheld=(_OF_OWNER, *_OF_WORKERS)),
        Program("exporter", exporter_command, stop_seconds=8, withheld=(_OF_OWNER, *_KEYS)),
        *((watcher,) if settings.watch.enabled else ()),
    ]


def demo_server(state: State, generated: Mapping[str, str], port: int) -> Dovecot | Pymap | None:
    """The IMAP server of the demo mailbox, once the demo has made one."""
    return demo.server(state, generated["DEMO_PASSWORD"], port) if demo.exists(state) else None


def _celery(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "celery", "-A", "tasks.celery_app:celery_app", *arguments)
