"""Whether each part of the stack does its work, and what to do when it does not.

Everything is asked as its users ask it: Redis for PONG with the worker's URL, PostgreSQL for a login as the
workers' role, the worker for the result of a task that does nothing. The environment must be in effect.
"""

import base64
import contextlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from native.environment import given
from native.errors import StackError
from native.ports import LOOPBACK
from native.postgres import libpq
from native.redis_trouble import address, explain
from native.state import State
from native.supervisor import Supervisor

if TYPE_CHECKING:
    from redis import Redis

# Beat looks at its schedule every few seconds, and notes in Redis that it did.
_BEAT_SILENCE_SECONDS = 30
_PROBE_SECONDS = 10
_SILENCE_SECONDS = 5
_LOG_OF_REDIS = "See ./manage.sh logs redis"
# Written by who asks whether Redis takes anything, and gone after a second.
_WRITTEN = "metabuilder:health"
# A page, the API, and what Flower by itself shows to everybody.
_FLOWER_PATHS = ("/workers", "/api/workers", "/metrics", "/healthcheck")


@dataclass(frozen=True)
class Check:
    """One component: whether it works, what was seen, and what to do if it does not.

    `warns` is that a person should look though all components work; `figures` are what was counted, for machines.
    """

    component: str
    ok: bool
    detail: str
    advice: str = ""
    warns: bool = False
    figures: Mapping[str, float | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def check_all(state: State) -> list[Check]:
    """Every component, in the order in which they need each other."""
    checks = [redis_answers(), postgres_answers()]
    missing = [name for name, check in zip(("Redis", "PostgreSQL"), checks, strict=True) if not check.ok]
    checks.append(_not_asked("clocks", f"{' and '.join(missing)} is down") if missing else clocks_agree())
    checks.append(migrations_are_at_head() if checks[1].ok else _not_asked("migrations", "PostgreSQL is down"))
    checks.append(worker_consumes() if checks[0].ok else _not_asked("worker", "Redis is down"))
    checks.append(beat_is_alive(state, may_ask=checks[0].ok))
    checks.append(flower_answers(state.port("flower") or 0))
    has_schema = all(check.ok for check in checks if check.component in ("postgres", "migrations"))
    return [*checks, mail_goes_out() if has_schema else _not_asked("mail", "PostgreSQL is down or not migrated")]


def configuration_is_valid() -> Check:
    """What the operator has set by now, in `.env` too, would start.

    To be asked before the environment of the running stack is in effect, which would win over the file.
    """
    from tasks.settings import ConfigurationError, load

    before = dict(os.environ)
    try:
        os.environ.update(given())
        load()
    except (StackError, ConfigurationError) as error:
        return Check("configuration", False, _one_line(error), "Mend it in .env, then run ./manage.sh up")
    finally:
        os.environ.clear()
        os.environ.update(before)
    return Check("configuration", True, "valid")


def redis_answers() -> Check:
    """Redis takes what is written, as the broker and as the result store."""
    import redis

    from tasks.settings import load

    version, found = "", load().redis
    is_one = found.broker.url == found.results.url
    for place in (found.broker,) if is_one else (found.broker, found.results):
        try:
            with _client(place.url) as client:
                client.set(_WRITTEN, "1", ex=1)
                version = client.info("server").get("redis_version", "")
        except (redis.RedisError, ValueError) as error:
            what, advice, _ = explain(error, place)
            detail = f"{address(place.url)} {what} ({_one_line(error)})"
            return Check("redis", False, detail, f"{advice}. {_LOG_OF_REDIS}")
    return Check("redis", True, f"takes what is written (version {version})")


def _client(url: str) -> "Redis":
    """A client that says soon that there is no answer."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options = {"socket_timeout": _SILENCE_SECONDS, "socket_connect_timeout": _SILENCE_SECONDS}
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)


_IS_A_WORKERS_ROLE = """
    SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'metabuilder_worker' AND pg_has_role(oid, 'USAGE')),
           current_user, current_setting('transaction_read_only')::boolean
"""
# In the transaction alone: a pooler gives the connection to others afterwards.
_WITH_LITTLE_MEMORY = "SELECT set_config('work_mem', '64kB', true), set_config('statement_timeout', %s, true)"
# Sorts more than fits into its memory, so that a megabyte of disk is used for a moment.
_HAS_DISK = "SELECT count(*) FROM (SELECT n FROM generate_series(1, 30000) AS n ORDER BY md5(n::text)) AS sorted"


def postgres_answers() -> Check:
    """PostgreSQL lets the worker in, as a role that may call the functions that look across tenants; it can write."""
    import psycopg2

    from tasks.settings import load

    try:
        connection = psycopg2.connect(
            libpq(load().database.url.get_secret_value()),
            connect_timeout=_SILENCE_SECONDS,
        )
        version = connection.server_version // 10_000
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(_IS_A_WORKERS_ROLE)
            is_a_workers, role, is_read_only = cursor.fetchone()
            cursor.execute(_WITH_LITTLE_MEMORY, [f"{_SILENCE_SECONDS}s"])
            cursor.execute(_HAS_DISK)
    except psycopg2.Error as error:
        return Check("postgres", False, _one_line(error), _start_or_look("postgres", "DATABASE_URL"))
    if is_read_only:
        advice = "Have DATABASE_URL lead to the primary; if it does, set default_transaction_read_only off there"
        return Check("postgres", False, "takes no writes: it is a standby or set to read-only", advice)
    if not is_a_workers:
        detail = f"lets {role} in, who is not the workers' role metabuilder_worker"
        return Check("postgres", False, detail, "Have DATABASE_URL name that role (docs/deployment.md says how)")
    return Check("postgres", True, f"accepts connections (version {version})")


def clocks_agree() -> Check:
    """The clocks of this host, Redis and PostgreSQL agree; one that is off stops nothing, and is warned of."""
    from redis import RedisError

    from tasks.errors import StorageUnavailableError
    from tasks.runtime.clocks import SKEW_SECONDS, measure, skew
    from tasks.settings import get_settings
    from tasks.storage.session import database_now

    try:
        with _client(get_settings().redis.broker_url) as client:
            clocks = measure(client, database_now)
    except (RedisError, StorageUnavailableError) as error:
        return Check("clocks", False, _one_line(error), "Look at redis and postgres first")
    figures = dict(zip(("host_ahead_seconds", "postgresql_ahead_seconds"), clocks.values(), strict=False))
    if found := skew(clocks):
        return Check("clocks", True, found.what, found.advice.capitalize(), warns=True, figures=figures)
    detail = f"this host, Redis and PostgreSQL agree within {SKEW_SECONDS} s"
    return Check("clocks", True, detail, figures=figures)


def migrations_are_at_head() -> Check:
    """The schema is the newest one."""
    from tasks.errors import EmailError
    from tasks.storage.migrate import current_and_head

    try:
        current, head = current_and_head(os.environ["DATABASE_OWNER_URL"])
    except EmailError as error:
        return Check("migrations", False, _one_line(error), "Check DATABASE_OWNER_URL in .env")
    if current == head:
        return Check("migrations", True, f"at {head}, the newest")
    return Check("migrations", False, f"at {current}, the newest is {head}", "Run ./manage.sh up, which migrates")


def worker_consumes(patience: float = _PROBE_SECONDS) -> Check:
    """A worker takes a task that does nothing from the queue, and its result comes back.

    A worker whose processes are all at work on long tasks cannot take it; it proves that it lives by saying so.
    """
    from kombu.exceptions import OperationalError
    from redis import RedisError

    try:
        seconds = _probe_worker(patience)
        busy = _count_active_tasks() if seconds is None else 0
    except (OperationalError, RedisError) as error:
        return Check("worker", False, _one_line(error), "Look at ./manage.sh health for redis first")
    if seconds is not None:
        return Check("worker", True, f"consumed a probe in {seconds * 1000:.0f} ms")
    if busy:
        return Check("worker", True, f"at work on {busy} tasks, no process free within {patience:.0f} s")
    advice = "See ./manage.sh logs worker, then ./manage.sh restart"
    return Check("worker", False, f"took no task from the queue within {patience:.0f} s", advice)


def _probe_worker(patience: float) -> float | None:
    """Seconds until a worker had run a task that every Celery worker has, and that gives back its argument."""
    from celery.exceptions import TimeoutError as NoResultError

    from tasks.celery_app import celery_app
    from tasks.runtime.admission import PROBE

    started = time.monotonic()
    probe = celery_app.send_task(PROBE, ("ok",), {"index": 0}, queue="sync", expires=patience)
    try:
        # One that expired in the queue comes back as revoked: a worker is there, but it is late.
        probe.get(timeout=patience, propagate=False)
        return time.monotonic() - started if probe.successful() else None
    except NoResultError:
        return None
    finally:
        probe.forget()


def _count_active_tasks() -> int:
    from tasks.celery_app import celery_app

    active = celery_app.control.inspect(timeout=2).active() or {}
    return sum(len(tasks) for tasks in active.values())


def beat_is_alive(state: State, *, may_ask: bool = True) -> Check:
    """Beat runs and has looked at its schedule lately, which Redis knows if it may be asked."""
    from kombu.exceptions import OperationalError
    from redis import RedisError

    from tasks.celery_app import celery_app
    from tasks.runtime.scheduler import seconds_since_tick

    status = Supervisor(state).status().get("beat")
    if status is None or not status.is_running:
        return Check("beat", False, status.state.lower() if status else "not running", "Run ./manage.sh up")
    if not may_ask:
        return _not_asked("beat", "Redis is down")
    try:
        silence = seconds_since_tick(celery_app)
    except (OperationalError, RedisError) as error:
        return Check("beat", False, _one_line(error), "Look at ./manage.sh health for redis first")
    if silence is None or silence > _BEAT_SILENCE_SECONDS:
        detail = "has not ticked yet" if silence is None else f"has not ticked for {silence:.0f} s"
        return Check("beat", False, detail, "See ./manage.sh logs beat, then ./manage.sh restart")
    return Check("beat", True, f"ticks (last {silence:.0f} s ago)")


def flower_answers(port: int) -> Check:
    """Flower refuses a stranger, whatever is asked for, and lets in who has the password."""
    advice = "See ./manage.sh logs flower, then ./manage.sh up"
    for path in _FLOWER_PATHS:
        stranger = _status(port, path, None)
        if stranger != 401:
            detail = "does not answer" if stranger is None else f"answers {stranger} without a password, not 401"
            return Check("flower", False, f"{path} on port {port} {detail}", advice)
    known = _status(port, _FLOWER_PATHS[0], os.environ.get("FLOWER_BASIC_AUTH", "").split(",")[0])
    if known != 200:
        return Check("flower", False, f"answers {known} with its password, not 200", advice)
    return Check("flower", True, f"answers on port {port}, with its password only")


def mail_goes_out() -> Check:
    """How much mail of all tenants waits for its server; a warning where some has for more than SMTP_DELAY_WARNING.

    Not a fault of the stack: mail servers of others are away at times.
    """
    from tasks.errors import EmailError
    from tasks.settings import get_settings
    from tasks.storage.waiting import count_waiting

    bound = get_settings().send.delay_warning
    try:
        waiting = count_waiting(bound)
    except EmailError as error:
        return Check("mail", False, _one_line(error), "Look at ./manage.sh health for postgres first")
    figures = waiting._asdict()
    if not waiting.messages:
        return Check("mail", True, "none waits to be sent", figures=figures)
    oldest = timedelta(seconds=round(waiting.oldest_seconds or 0))
    detail = f"{waiting.messages:,} not sent yet, the oldest for {oldest}"
    if not waiting.late:
        return Check("mail", True, detail, figures=figures)
    detail += f"; {waiting.late:,} for more than {timedelta(seconds=bound)}"
    advice = "./manage.sh outbox list --all-tenants shows what their servers say, and when each is tried next"
    return Check("mail", True, detail, advice, warns=True, figures=figures)


def _status(port: int, path: str, login: str | None) -> int | None:
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}{path}")
    if login is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    # Loopback is never asked through a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _not_asked(component: str, why: str) -> Check:
    return Check(component, False, f"not asked: {why}", "Mend that first")


def _start_or_look(component: str, variable: str) -> str:
    return f"Run ./manage.sh up; if {variable} is set in .env, check it. See ./manage.sh logs {component}"


def _one_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
