"""Whether each part of the stack does its work, and what to do when it does not.

Each part is asked in the way in which it is used: Redis and PostgreSQL as by workers (native/stores.py), the worker
for the results of tasks that do nothing, one of each queue. The environment must be in effect.
"""

import base64
import os
import urllib.error
import urllib.request

from native import admin_uis, inbox, stores
from native.check import Check, not_asked, one_line
from native.environment import given
from native.errors import StackError
from native.ports import LOOPBACK
from native.state import State
from native.supervisor import Supervisor

# Beat looks at its schedule every few seconds, and notes in Redis that it did.
_BEAT_SILENCE_SECONDS = 30
_PROBE_SECONDS = 10
# A page, the API, and the paths that Flower itself would show to everybody.
_FLOWER_PATHS = ("/workers", "/api/workers", "/metrics", "/healthcheck")


def check_all(state: State) -> list[Check]:
    """The checks of all components; a component comes after those that it needs."""
    checks = [stores.redis_answers(), stores.postgres_answers()]
    missing = [name for name, check in zip(("Redis", "PostgreSQL"), checks, strict=True) if not check.ok]
    checks.append(not_asked("clocks", f"{' and '.join(missing)} is down") if missing else stores.clocks_agree())
    checks.append(stores.migrations_are_at_head() if checks[1].ok else not_asked("migrations", "PostgreSQL is down"))
    checks.append(worker_consumes() if checks[0].ok else not_asked("worker", "Redis is down"))
    checks.append(stores.queues_move() if checks[0].ok else not_asked("queues", "Redis is down"))
    checks.append(stores.names_run() if checks[0].ok else not_asked("revoked", "Redis is down"))
    checks.append(beat_is_alive(state, may_ask=checks[0].ok))
    checks.append(flower_answers(state.port("flower") or 0))
    checks.append(exporter_answers(state.port("exporter") or 0))
    if "watcher" in Supervisor(state).status():
        is_migrated = all(check.ok for check in checks if check.component in ("postgres", "migrations"))
        checks.append(watcher_is_alive(state, may_ask=is_migrated))
    pages = [name for name in (*admin_uis.NAMES, inbox.NAME) if name in Supervisor(state).status()]
    checks += [page_answers(name, state.port(name) or 0) for name in pages]
    has_schema = all(check.ok for check in checks if check.component in ("postgres", "migrations"))
    if not has_schema:
        why = "PostgreSQL is down or not migrated"
        return [*checks, not_asked("accounts", why), not_asked("mail", why)]
    return [*checks, *stores.people_are_needed(), stores.mail_goes_out()]


def configuration_is_valid() -> Check:
    """Check that the programs could start with the present settings of the operator, those in `.env` included.

    To be called before the environment of the running stack is in effect, which would win over the file.
    """
    from tasks.settings import ConfigurationError, load

    before = dict(os.environ)
    try:
        os.environ.update(given())
        load()
    except (StackError, ConfigurationError) as error:
        return Check("configuration", False, one_line(error), "Correct .env, then run ./manage.sh up")
    finally:
        os.environ.clear()
        os.environ.update(before)
    return Check("configuration", True, "valid")


def worker_consumes(patience: float = _PROBE_SECONDS) -> Check:
    """Check that a worker takes a task that does nothing from each queue, and that its result arrives.

    If all processes of the worker are at work on long tasks, it cannot take that task; then the tasks at work show
    that it consumes.
    """
    from kombu.exceptions import OperationalError
    from redis import RedisError

    from tasks.celery_app import celery_app
    from tasks.errors import ResultsUnavailableError
    from tasks.monitoring.canary import consumption

    try:
        found = consumption(celery_app, patience=patience)
    except (OperationalError, RedisError, ResultsUnavailableError) as error:
        return Check("worker", False, one_line(error), "Look at ./manage.sh health for redis first")
    if stuck := [queue.name for queue in found if not queue.ok]:
        advice = "See ./manage.sh logs worker, then ./manage.sh restart worker"
        return Check("worker", False, f"took no task within {patience:.0f} s from {', '.join(stuck)}", advice)
    if busy := max(queue.at_work for queue in found):
        return Check("worker", True, f"at work on {busy} tasks, no process free within {patience:.0f} s")
    slowest = max(queue.seconds or 0 for queue in found)
    return Check("worker", True, f"consumed a task from each queue in {slowest * 1000:.0f} ms")


def beat_is_alive(state: State, *, may_ask: bool = True) -> Check:
    """Check that beat runs, and (if Redis may be asked) that it has looked at its schedule lately."""
    from kombu.exceptions import OperationalError
    from redis import RedisError

    status = Supervisor(state).status().get("beat")
    if status is None or not status.is_running:
        return Check("beat", False, status.state.lower() if status else "not running", "Run ./manage.sh up")
    if not may_ask:
        return not_asked("beat", "Redis is down")
    try:
        silence = beat_silence()
    except (OperationalError, RedisError) as error:
        return Check("beat", False, one_line(error), "Look at ./manage.sh health for redis first")
    if silence is None or silence > _BEAT_SILENCE_SECONDS:
        detail = "has not ticked yet" if silence is None else f"has not ticked for {silence:.0f} s"
        return Check("beat", False, detail, "See ./manage.sh logs beat, then ./manage.sh restart beat")
    return Check("beat", True, f"ticks (last {silence:.0f} s ago)")


def beat_silence() -> float | None:
    """For how many seconds beat has not looked at its schedule; None if it never has.

    Raises kombu's OperationalError or RedisError.
    """
    from tasks.celery_app import celery_app
    from tasks.runtime.scheduler import seconds_since_tick

    return seconds_since_tick(celery_app)


def flower_answers(port: int) -> Check:
    """Check that Flower refuses every request without the password, and takes the password."""
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


def watcher_is_alive(state: State, *, may_ask: bool = True) -> Check:
    """Check that the watcher runs, and (if PostgreSQL may be asked) that it keeps its lease there."""
    from tasks.errors import StorageUnavailableError
    from tasks.storage.accounts.watches import living_watchers

    status = Supervisor(state).status().get("watcher")
    if status is None or not status.is_running:
        return Check("watcher", False, status.state.lower() if status else "not running", "Run ./manage.sh up")
    if not may_ask:
        return not_asked("watcher", "PostgreSQL is down or not migrated")
    try:
        alive = [number for name, number in living_watchers().items() if f":{status.pid}:" in name]
    except StorageUnavailableError as error:
        return Check("watcher", False, one_line(error), "Look at ./manage.sh health for postgres first")
    if not alive:
        advice = "See ./manage.sh logs watcher, then ./manage.sh restart watcher"
        return Check("watcher", False, "has not renewed its lease in PostgreSQL", advice)
    return Check("watcher", True, f"watches {alive[0]} mailboxes")


def page_answers(name: str, port: int) -> Check:
    """Check that Adminer, Redis Commander or the inbox runs, and shows nothing without the password."""
    path = {**admin_uis.PATHS, inbox.NAME: inbox.PATH}[name]
    if (status := _status(port, path, None)) != 401:
        said = "does not answer" if status is None else f"answers {status} without a password, not 401"
        return Check(
            name, False, f"{path} on port {port} {said}", f"See ./manage.sh logs {name}, then ./manage.sh up"
        )
    return Check(name, True, f"answers on port {port}, with its password only")


def exporter_answers(port: int) -> Check:
    """Check that the exporter runs, and shows no metrics without Flower's password.

    Neither metrics nor /healthz are asked for: they wait for Redis and workers, which have checks of their own.
    """
    if (status := _status(port, "/metrics", None)) != 401:
        said = "does not answer" if status is None else f"answers {status} without a password, not 401"
        advice = "See ./manage.sh logs exporter, then ./manage.sh up"
        return Check("exporter", False, f"/metrics on port {port} {said}", advice)
    return Check("exporter", True, f"answers on port {port}, with Flower's password only")


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
