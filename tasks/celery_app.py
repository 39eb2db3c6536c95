"""The Celery application: configuration, queues, routes and schedule. Tasks are imported from here.

from tasks.celery_app import SYNC_EMAILS, sync_emails
sync_emails.delay(email_client_id, tenant_id, user_id)
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery import Celery
from kombu import Queue

from tasks import drain
from tasks.base import CELERY_DEFAULT_RETRY_DELAY, CELERY_RETRY_BACKOFF_BASE, EmailTask
from tasks.control import get_active_tasks, get_queue_stats, get_task_status, revoke_task
from tasks.monitoring import journal, systemd
from tasks.periodic import PERIODIC_SYNC, periodic_sync
from tasks.send import SEND_EMAIL, send_email
from tasks.settings import Settings, get_settings
from tasks.spam import ASK_SPAM_ENGINES, CHECK_SPAM, ask_spam_engines, check_spam
from tasks.sync import SYNC_EMAILS, sync_emails

__all__ = [
    "CELERY_DEFAULT_RETRY_DELAY",
    "CELERY_RETRY_BACKOFF_BASE",
    "EmailTask",
    "ask_spam_engines",
    "celery_app",
    "check_spam",
    "create_celery_app",
    "get_active_tasks",
    "get_queue_stats",
    "get_task_status",
    "periodic_sync",
    "revoke_task",
    "send_email",
    "sync_emails",
]

QUEUES = ("sync", "send", "periodic", "spam")

_SYNC_SCHEDULE_SECONDS = 300


def create_celery_app(get: Callable[[], Settings] = get_settings) -> Celery:
    """An application whose configuration is read from `get` when it is first needed."""
    app = Celery("email_service")
    app.add_defaults(lambda: _configuration(get()))
    return app


def _configuration(settings: Settings) -> dict[str, Any]:
    # Tasks by name: asking a task for anything would need the configuration that is being made here.
    worker = settings.worker
    return {
        "broker_url": settings.redis.broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {"visibility_timeout": worker.visibility_timeout},
        "result_backend": settings.redis.result_backend,
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
        "task_routes": {
            SYNC_EMAILS: {"queue": "sync"},
            SEND_EMAIL: {"queue": "send"},
            PERIODIC_SYNC: {"queue": "periodic"},
            CHECK_SPAM: {"queue": "spam"},
            ASK_SPAM_ENGINES: {"queue": "spam"},
        },
        "task_track_started": True,
        # A task is acknowledged when its effect is durable, and comes back if its worker dies before.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_time_limit": worker.task_time_limit,
        "task_soft_time_limit": worker.task_soft_time_limit,
        "worker_concurrency": worker.concurrency,
        "worker_prefetch_multiplier": worker.prefetch_multiplier,
        "worker_max_tasks_per_child": worker.max_tasks_per_child,
        # A sync survives a restart of Redis: it goes on, and its redelivery finds nothing left to do.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": True,
        "beat_scheduler": "tasks.beat:SharedScheduler",
        "beat_schedule": {
            "sync-emails-every-5min": {
                "task": PERIODIC_SYNC,
                "schedule": timedelta(seconds=_SYNC_SCHEDULE_SECONDS),
                "options": {"expires": _SYNC_SCHEDULE_SECONDS},
            },
        },
    }


celery_app = create_celery_app()
celery_app.set_default()
drain.connect()
systemd.connect()
journal.connect()
