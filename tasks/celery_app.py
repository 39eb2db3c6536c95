"""The Celery application: configuration, queues, routes and schedule. Tasks are imported from here.

from tasks.celery_app import sync_emails
sync_emails.delay(email_client_id, tenant_id, user_id)
"""

import socket
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.signals import worker_shutting_down
from kombu import Connection, Queue
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.url import parse_url

from tasks.engine import shutdown
from tasks.monitoring import flower_broker, flower_door, flower_events, reporter, run_counts, watchdog
from tasks.registry import QUEUES, TASKS, TaskRow
from tasks.runtime import log, systemd
from tasks.runtime.broker import outage
from tasks.runtime.control import get_active_tasks, get_queue_stats, get_task_status, revoke_task
from tasks.runtime.results import ResultStore
from tasks.runtime.task import EmailTask
from tasks.runtime.task.retried import CELERY_DEFAULT_RETRY_DELAY, CELERY_RETRY_BACKOFF_BASE
from tasks.settings import RedisPlace, Settings, get_settings

_tasks = {row.function: getattr(import_module(f"tasks.{row.module}"), row.function) for row in TASKS}

__all__ = [
    "CELERY_DEFAULT_RETRY_DELAY",
    "CELERY_RETRY_BACKOFF_BASE",
    "EmailTask",
    "celery_app",
    "create_celery_app",
    "get_active_tasks",
    "get_queue_stats",
    "get_task_status",
    "revoke_task",
    *_tasks,
]

# How often workers look for messages whose visibility timeout has passed; kombu's default is every 100 s.
_RESTORE_SECONDS = 10
# How long the lock on that search lasts. A worker or a Redis that dies during the search leaves the lock behind, and
# no other worker looks until it expires. The search takes milliseconds; kombu's default is 300 s.
_RESTORE_LOCK_SECONDS = 30
# After these seconds a broker that vanished without closing its connections is noticed.
_CONNECT_SECONDS, _ANSWER_SECONDS = 3, 5
# Tasks can do without the result store, so they wait less for it. A connection that was idle for longer than
# _HEALTH_SECONDS is tested before it is used.
_RESULT_SECONDS, _HEALTH_SECONDS = 5, 25
# How long a worker that is told to stop by SIGINT or SIGQUIT lets its tasks go on; then unfinished tasks are given
# back to their queues. (After SIGTERM the worker waits for all its tasks.)
_SOFT_SHUTDOWN_SECONDS = 10

# Our transport (tasks/runtime/broker/transport.py) has a name of its own for each scheme, so that other Celery
# applications in the same process keep kombu's. The alias makes a connection show the usual scheme in its URL.
_TRANSPORTS = {scheme: f"metabuilder-{scheme}" for scheme in ("redis", "rediss")}
for _scheme, _name in _TRANSPORTS.items():
    TRANSPORT_ALIASES[_name] = "tasks.runtime.broker.transport:Transport"
    Connection.resolve_aliases[_name] = _scheme


class _Application(Celery):  # type: ignore[misc]  # celery has no types
    """Celery with our result store at the URL of the configuration.

    Celery's own class would prefer CELERY_RESULT_BACKEND from the environment, which has no options for TLS.
    """

    control_cls = "tasks.runtime.control:Control"

    events_cls = "tasks.runtime.heartbeat:Events"

    def _get_backend(self) -> ResultStore:
        return ResultStore(app=self, url=self.conf.first("result_backend"))


def __getattr__(name: str) -> Any:
    """A task, by the name of its function (PEP 562)."""
    try:
        return _tasks[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def create_celery_app(get: Callable[[], Settings] = get_settings) -> Celery:
    """An application whose configuration is read from `get` when it is first needed."""
    # Only `celery_app` below becomes the current application of the process; others, as for tests, do not replace it.
    app = _Application("email_service", set_as_current=False)
    app.add_defaults(lambda: _configuration(get()))
    watchdog.connect(app)
    return app


def _configuration(settings: Settings) -> dict[str, Any]:
    # Tasks are given by name, because looking at a task object would need the configuration that is being made here.
    worker, broker_url = settings.worker, settings.redis.broker_url
    return {
        "broker_url": broker_url,
        # These two are set as well, because Celery prefers
        # CELERY_BROKER_URL, without the options for TLS, to `broker_url`.
        "broker_read_url": broker_url,
        "broker_write_url": broker_url,
        # For Flower, whose client reads no options in the URL.
        "broker_use_ssl": parse_url(broker_url).get("ssl"),
        "broker_transport": _TRANSPORTS[urlsplit(broker_url).scheme],
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "master_name": _master_name(settings.redis.broker),
            **_transport_options(worker.visibility_timeout),
        },
        "result_backend": settings.redis.result_backend,
        "result_backend_transport_options": {"master_name": _master_name(settings.redis.results)},
        "redis_socket_connect_timeout": _CONNECT_SECONDS,
        "redis_socket_timeout": _RESULT_SECONDS,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": _HEALTH_SECONDS,
        "result_expires": worker.result_expires,
        "result_extended": False,  # arguments stay out of the result store
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "timezone": "UTC",
        "enable_utc": True,
        "task_queues": tuple(Queue(name, routing_key=name) for name in QUEUES),
        "task_default_queue": "sync",
        "task_create_missing_queues": False,
        "task_routes": {row.name: {"queue": row.queue} for row in TASKS},
        "task_track_started": True,
        # A task is acknowledged when its effect is durable, and redelivered if its worker dies before.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_timeout": False,
        "task_time_limit": worker.task_time_limit,
        "task_soft_time_limit": worker.task_soft_time_limit,
        "worker_pool": "tasks.runtime.pool:TaskPool",
        "worker_consumer": "tasks.runtime.consumer:Consumer",
        "worker_concurrency": worker.concurrency,
        "worker_prefetch_multiplier": worker.prefetch_multiplier,
        "worker_max_tasks_per_child": worker.max_tasks_per_child,
        "worker_eta_task_limit": worker.eta_task_limit,
        "worker_soft_shutdown_timeout": _SOFT_SHUTDOWN_SECONDS,
        # A sync goes on when Redis restarts. If its message is redelivered, the second run finds nothing left to do.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Messages in hand still count after a new connection (tasks/runtime/broker/deliveries.py).
        "worker_enable_prefetch_count_reduction": False,
        # From the start, not only when Flower asks for it (tasks/runtime/heartbeat.py).
        "worker_send_task_events": True,
        "worker_hijack_root_logger": True,
        "beat_scheduler": "tasks.runtime.scheduler:SharedScheduler",
        "beat_schedule": dict(_entry(row) for row in TASKS if row.schedule),
    }


def _entry(row: TaskRow) -> tuple[str, dict[str, Any]]:
    """A task's entry in beat's schedule. A task that has not begun when beat queues it again expires."""
    assert row.schedule
    entry, seconds = row.schedule
    return entry, {"task": row.name, "schedule": timedelta(seconds=seconds), "options": {"expires": seconds}}


def _master_name(place: RedisPlace) -> str | None:
    return place.sentinels.master_name if place.sentinels else None


def _transport_options(visibility_timeout: int) -> dict[str, Any]:
    return {
        "visibility_timeout": visibility_timeout,
        "unacked_restore_interval": _RESTORE_SECONDS,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": _RESTORE_LOCK_SECONDS,
        "queue_order_strategy": "tasks.runtime.broker.queues:WeightedCycle",
        "socket_connect_timeout": _CONNECT_SECONDS,
        "socket_timeout": _ANSWER_SECONDS,
        "socket_keepalive": True,
        "socket_keepalive_options": _keepalive_options(),
    }


def _keepalive_options() -> dict[int, int]:
    """Options that end a dead connection after about 20 s even
    if nothing is sent on it, like the one for remote control.

    Without them Linux waits two hours. TCP options (tcp(7)) that the system does not have are left out.
    """
    values = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
    return {getattr(socket, name): value for name, value in values.items() if hasattr(socket, name)}


celery_app = create_celery_app()
celery_app.set_default()
worker_shutting_down.connect(shutdown.request)
systemd.connect()
flower_door.connect()
flower_events.connect()
flower_broker.connect()
log.connect()
outage.connect()
reporter.connect()
run_counts.connect()
