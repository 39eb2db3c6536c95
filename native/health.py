"""Whether each part of the stack does its work, and what to do when it does not.

Everything is asked as its users ask it: Redis and PostgreSQL as the workers do (native/stores.py), the worker for the
result of a task that does nothing. The environment must be in effect.
"""

import base64
import os
import time
import urllib.error
import urllib.request

from native import stores
from native.check import Check, not_asked, one_line
from native.environment import given
from native.errors import StackError
from native.ports import LOOPBACK
from native.state import State
from native.supervisor import Supervisor

# Beat looks at its schedule every few seconds, and notes in Redis that it did.
_BEAT_SILENCE_SECONDS = 30
_PROBE_SECONDS = 10
# A page, the API, and what Flower by itself shows to everybody.
_FLOWER_PATHS = ("/workers", "/api/workers", "/metrics", "/healthcheck")


def check_all(state: State) -> list[Check]:
    """Every component, in the order in which they need each other."""
    checks = [stores.redis_answers(), stores.postgres_answers()]
    missing = [name for name, check in zip(("Redis", "PostgreSQL"), checks, strict=True) if not check.ok]
    checks.append(not_asked("clocks", f"{' and '.join(missing)} is down") if missing else stores.clocks_agree())
    checks.append(stores.migrations_are_at_head() if checks[1].ok else not_asked("migrations", "PostgreSQL is down"))
    checks.append(worker_consumes() if checks[0].ok else not_asked("worker", "Redis is down"))
    checks.append(beat_is_alive(state, may_ask=checks[0].ok))
    checks.append(flower_answers(state.port("flower") or 0))
    has_schema = all(check.ok for check in checks if check.component in ("postgres", "migrations"))
    return [
        *checks,
        stores.mail_goes_out() if has_schema else not_asked("mail", "PostgreSQL is down or not migrated"),
    ]


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
        return Check("configuration", False, one_line(error), "Mend it in .env, then run ./manage.sh up")
    finally:
        os.environ.clear()
        os.environ.update(before)
    return Check("configuration", True, "valid")


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
        return Check("worker", False, one_line(error), "Look at ./manage.sh health for redis first")
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
        return not_asked("beat", "Redis is down")
    try:
        silence = seconds_since_tick(celery_app)
    except (OperationalError, RedisError) as error:
        return Check("beat", False, one_line(error), "Look at ./manage.sh health for redis first")
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
