"""All tasks, one row each. Imports, queues, routes and beat's schedule are read from these rows.

To add a task, add its name and its row here, and its function in the module that the row names.
"""

from typing import NamedTuple

# Each queue and its weight: the share of a worker's turns that the queue gets while other queues have messages too. A
# queue of weight 0 is served only while all others are empty (tasks/runtime/broker/queues.py).
QUEUES = {"sync": 10, "periodic": 10, "send": 8, "delete": 5, "spam": 3, "webhooks": 8, "reread": 0}

# The names of the tasks in task messages. They never change, as queues and databases of every site hold them.
SYNC_EMAILS = "email_service.tasks.sync_emails"
PERIODIC_SYNC = "email_service.tasks.periodic_sync"
SEND_EMAIL = "email_service.tasks.send_email"
SEND_WAITING = "email_service.tasks.send_waiting"
QUEUE_WAITING_MAIL = "email_service.tasks.queue_waiting_mail"
DELETE_EMAILS = "email_service.tasks.delete_emails"
EMPTY_TRASH = "email_service.tasks.empty_trash"
ENFORCE_TRASH_RETENTION = "email_service.tasks.enforce_trash_retention"
CHECK_SPAM = "email_service.tasks.check_spam"
ASK_SPAM_ENGINES = "email_service.tasks.ask_spam_engines"
REREAD_MESSAGES = "email_service.tasks.reread_messages"
QUEUE_REREADING = "email_service.tasks.queue_rereading"
DELIVER_WEBHOOKS = "email_service.tasks.deliver_webhooks"
CLEANUP_STALE_RESULTS = "email_service.tasks.cleanup_stale_results"

# How often beat looks for accounts with messages to read again. A task that has not begun by the next time expires.
REREADING_SECONDS = 300
# How often beat looks for events to deliver, beside each time that events are written.
WEBHOOKS_SECONDS = 10
# How often beat looks for accounts that are due.
DUE_ACCOUNTS_SECONDS = 300


class Schedule(NamedTuple):
    """When beat queues a task: every so many seconds. `entry` is the name under which the last run is remembered."""

    entry: str
    seconds: int


class TaskRow(NamedTuple):
    """One task: its name, the module of `tasks` with its function, its queue, and its schedule if beat queues it."""

    name: str
    module: str
    queue: str
    schedule: Schedule | None = None

    @property
    def function(self) -> str:
        """The name of the function: the last part of the task's name."""
        return self.name.rpartition(".")[2]


TASKS = (
    TaskRow(SYNC_EMAILS, "sync", "sync"),
    TaskRow(PERIODIC_SYNC, "periodic", "periodic", Schedule("sync-emails-every-5min", DUE_ACCOUNTS_SECONDS)),
    TaskRow(SEND_EMAIL, "send", "send"),
    TaskRow(SEND_WAITING, "send", "send"),
    TaskRow(QUEUE_WAITING_MAIL, "send", "periodic", Schedule("queue-waiting-mail-every-30s", 30)),
    TaskRow(DELETE_EMAILS, "delete", "delete"),
    TaskRow(EMPTY_TRASH, "delete", "delete"),
    TaskRow(ENFORCE_TRASH_RETENTION, "delete", "periodic", Schedule("enforce-trash-retention-daily", 24 * 3600)),
    TaskRow(CHECK_SPAM, "spam", "spam"),
    TaskRow(ASK_SPAM_ENGINES, "spam", "spam"),
    TaskRow(REREAD_MESSAGES, "reread", "reread"),
    TaskRow(QUEUE_REREADING, "reread", "periodic", Schedule("queue-rereading-every-5min", REREADING_SECONDS)),
    TaskRow(DELIVER_WEBHOOKS, "webhooks", "webhooks", Schedule("deliver-webhooks-every-10s", WEBHOOKS_SECONDS)),
    TaskRow(CLEANUP_STALE_RESULTS, "maintenance", "periodic", Schedule("cleanup-stale-tasks-hourly", 3600)),
)
