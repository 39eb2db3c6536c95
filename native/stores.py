"""Checks of Redis and PostgreSQL, and of what these two know: clocks, names of tasks that are revoked,
the schema, waiting mail.

Both are asked in the way in which workers use them. The environment must be in effect.
"""

import contextlib
import os
from datetime import timedelta
from typing import TYPE_CHECKING

from native.backlog import messages_are_young, nothing_waits_for_a_person
from native.check import Check, names_revoked, one_line
from native.postgres import libpq
from native.redis_trouble import explain, name

if TYPE_CHECKING:
    from redis import Redis

    from tasks.settings import RedisPlace

_SILENCE_SECONDS = 5
_LOG_OF_REDIS = "See ./manage.sh logs redis"
# The key that the check writes to find out whether Redis takes writes; it expires after a second.
_WRITTEN = "metabuilder:health"


def redis_answers() -> Check:
    """Check that Redis takes writes, as the broker and as the result store."""
    from tasks.settings import load

    found = load().redis
    broker = _takes_writes(found.broker)
    return _takes_writes(found.results) if broker.ok else broker


def results_answer() -> Check:
    """Check that Redis takes writes as the result store."""
    from tasks.settings import load

    return _takes_writes(load().redis.results)


def _takes_writes(place: "RedisPlace") -> Check:
    import redis

    try:
        with _client(place) as client:
            client.set(_WRITTEN, "1", ex=1)
            version = client.info("server").get("redis_version", "")
    except (redis.RedisError, ValueError) as error:
        trouble = explain(error, place)
        detail = f"{name(place)} {trouble.what} ({one_line(error)})"
        return Check(
            "redis", False, detail, trouble.advice if place.is_results else f"{trouble.advice}. {_LOG_OF_REDIS}"
        )
    return Check("redis", True, f"takes what is written (version {version})")


def _client(place: "RedisPlace") -> "Redis":
    """A client with short timeouts."""
    from tasks.runtime.broker.master import client_of

    return client_of(place, socket_timeout=_SILENCE_SECONDS, socket_connect_timeout=_SILENCE_SECONDS)


_IS_A_WORKERS_ROLE = """
    SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'metabuilder_worker' AND pg_has_role(oid, 'USAGE')),
           current_user, current_setting('transaction_read_only')::boolean
"""
# Set for the transaction alone, because a pooler gives the connection to others afterwards.
_WITH_LITTLE_MEMORY = "SELECT set_config('work_mem', '64kB', true), set_config('statement_timeout', %s, true)"
# Sorts more rows than fit into work_mem, so that PostgreSQL uses a megabyte of disk for a moment.
_HAS_DISK = "SELECT count(*) FROM (SELECT n FROM generate_series(1, 30000) AS n ORDER BY md5(n::text)) AS sorted"


def postgres_answers() -> Check:
    """Check that the worker can log in to PostgreSQL, with a role
    that may call the functions across tenants, and can write."""
    import psycopg2

    from tasks.settings import load
    from tasks.storage.session import brief

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
        return Check("postgres", False, brief(str(error)).rstrip("."), _start_or_look("postgres", "DATABASE_URL"))
    if is_read_only:
        advice = (
            "Set DATABASE_URL to the primary. If that is the primary, set default_transaction_read_only to off there"
        )
        return Check("postgres", False, "takes no writes: it is a standby or set to read-only", advice)
    if not is_a_workers:
        detail = f"takes the login of {role}, but workers need the role metabuilder_worker"
        return Check(
            "postgres", False, detail, "Name metabuilder_worker in DATABASE_URL (docs/deployment.md says how)"
        )
    return Check("postgres", True, f"accepts connections (version {version})")


def clocks_agree() -> Check:
    """Check that the clocks of this host, Redis and PostgreSQL agree.

    A clock that is off stops nothing and gives a warning.
    """
    from redis import RedisError

    from tasks.errors import StorageUnavailableError
    from tasks.runtime.clocks import SKEW_SECONDS, measure, skew
    from tasks.settings import get_settings
    from tasks.storage.session import database_now

    try:
        with _client(get_settings().redis.broker) as client:
            clocks = measure(client, database_now)
    except (RedisError, StorageUnavailableError) as error:
        return Check("clocks", False, one_line(error), "Look at redis and postgres first")
    figures = dict(zip(("host_ahead_seconds", "postgresql_ahead_seconds"), clocks.values(), strict=False))
    if found := skew(clocks):
        return Check("clocks", True, found.what, found.advice.capitalize(), warns=True, figures=figures)
    detail = f"this host, Redis and PostgreSQL agree within {SKEW_SECONDS} s"
    return Check("clocks", True, detail, figures=figures)


def names_run() -> Check:
    """Check that workers run the tasks of all names, with a warning if somebody has revoked a name."""
    from redis import RedisError

    from tasks.runtime.revocations import revocations
    from tasks.settings import get_settings

    try:
        with _client(get_settings().redis.broker) as client:
            names = [one.name for one in revocations(client) if one.name]
    except RedisError as error:
        return Check("revoked", False, one_line(error), "Look at ./manage.sh health for redis first")
    return names_revoked(names, "./manage.sh")


def queues_move() -> Check:
    """Check for how long messages have been due."""
    from redis import RedisError

    from tasks.monitoring.readings.queues import queues
    from tasks.settings import get_settings

    try:
        with _client(get_settings().redis.broker) as client:
            return messages_are_young(queues(client), "./manage.sh", "CELERYD_CONCURRENCY")
    except RedisError as error:
        return Check("queues", False, one_line(error), "Look at ./manage.sh health for redis first")


def people_are_needed() -> list[Check]:
    """Count the accounts that are overdue, the dead letters, and the mail that may have been sent."""
    from sqlalchemy.exc import DBAPIError

    from tasks.errors import EmailError
    from tasks.storage.counts import count

    try:
        return list(nothing_waits_for_a_person(count(), "./manage.sh"))
    except (EmailError, DBAPIError) as error:
        return [Check("accounts", False, one_line(error), "Look at ./manage.sh health for postgres first")]


def migrations_are_at_head() -> Check:
    """Check that the schema is at the newest revision."""
    from tasks.errors import EmailError
    from tasks.storage.migrate import current_and_head

    try:
        current, head = current_and_head(os.environ["DATABASE_OWNER_URL"])
    except EmailError as error:
        return Check("migrations", False, one_line(error), "Check DATABASE_OWNER_URL in .env")
    if current == head:
        return Check("migrations", True, f"at {head}, the newest")
    return Check("migrations", False, f"at {current}, the newest is {head}", "Run ./manage.sh up, which migrates")


def mail_goes_out() -> Check:
    """Count the waiting mail of all tenants, with a warning if a message has waited for more than SMTP_DELAY_WARNING.

    Waiting mail is no fault of the stack, because mail servers are away at times.
    """
    from tasks.errors import EmailError
    from tasks.settings import get_settings
    from tasks.storage.waiting import count_waiting

    bound = get_settings().send.delay_warning
    try:
        waiting = count_waiting(bound)
    except EmailError as error:
        return Check("mail", False, one_line(error), "Look at ./manage.sh health for postgres first")
    figures = waiting._asdict()
    if not waiting.messages:
        return Check("mail", True, "no message waits to be sent", figures=figures)
    oldest = timedelta(seconds=round(waiting.oldest_seconds or 0))
    detail = f"{waiting.messages:,} messages are not sent yet, the oldest has waited for {oldest}"
    if not waiting.late:
        return Check("mail", True, detail, figures=figures)
    detail += f"; {waiting.late:,} of the messages for more than {timedelta(seconds=bound)}"
    advice = "./manage.sh outbox list --all-tenants shows the last error of each message and its next try"
    return Check("mail", True, detail, advice, warns=True, figures=figures)


def _start_or_look(component: str, variable: str) -> str:
    return f"Run ./manage.sh up; if {variable} is set in .env, check it. See ./manage.sh logs {component}"
