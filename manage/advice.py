"""What a person can do about an error, in the words of the place where the error is shown.

Errors name no command (`tasks/errors/`): in a clone the command is ./manage.sh, on a host `metabuilder`. Errors
name variables of the environment, which on a host are set by variables of the inventory.
"""

import re
import shlex
from typing import TYPE_CHECKING

from manage import place

if TYPE_CHECKING:
    from tasks.errors import Remedy

# By the name of the remedy, as `help` need not wait until the errors are imported. COMMAND, ACCOUNT and ID are put in
# where an error is shown.
_SENTENCES = {
    "STORE_PASSWORD": "Store another password: COMMAND account password ACCOUNT. "
    "Or try the present one now: COMMAND account test ACCOUNT",
    "STORE_SMTP_PASSWORD": "Store another password: COMMAND account password ACCOUNT "
    "(with --smtp: for the SMTP server alone). Or try the present one now: COMMAND account test ACCOUNT",
    "STORE_TOKEN": "Store a new refresh token: COMMAND account password ACCOUNT",
    "STORE_SECRET_AGAIN": "Enter the password or token again: COMMAND account password ACCOUNT "
    "(with --smtp: that of the SMTP server alone)",
    "TRY_LOGIN": "Try the login now: COMMAND account test ACCOUNT",
    "DECIDE_DELIVERY": "Look at the message, then say whether it was sent: COMMAND outbox show ID, "
    "COMMAND outbox sent ID, COMMAND outbox resend ID",
    "RETRY_TASK": "Queue the task again: COMMAND dlq retry ID. Or forget it: COMMAND dlq drop ID",
}
_PLACEHOLDER = re.compile(r"\b(?:COMMAND|ACCOUNT|ID)\b")

_VARIABLE = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")
# Variables of the inventory whose names are not `application_` and the environment variable's name in small letters.
_OTHER_NAMES = {
    "REDIS_USERNAME": "redis_user",
    "REDIS_PASSWORD": "redis_password",
    "CELERYD_CONCURRENCY": "celery_worker_concurrency",
    "TASK_TIMEOUT": "celery_worker_task_timeout",
    "CELERY_TASK_SOFT_TIME_LIMIT": "celery_worker_task_soft_time_limit",
    "CELERY_WORKER_PREFETCH_MULTIPLIER": "celery_worker_prefetch_multiplier",
    "CELERY_WORKER_MAX_TASKS_PER_CHILD": "celery_worker_max_tasks_per_child",
    "CELERY_RESULT_EXPIRES": "celery_worker_result_expires",
    "CELERY_VISIBILITY_TIMEOUT": "celery_worker_visibility_timeout",
    "TASK_RETRY_MAX_DELAY": "celery_worker_retry_max_delay",
    "TASK_MAX_REDELIVERIES": "celery_worker_max_redeliveries",
    "UNKNOWN_TASK_HOURS": "celery_worker_unknown_task_hours",
    "DEAD_LETTER_RETENTION_DAYS": "celery_worker_dead_letter_retention_days",
    "CELERY_WORKER_ETA_TASK_LIMIT": "celery_worker_eta_task_limit",
    "WATCH_ENABLED": "mail_watcher_enabled",
    "WATCH_MAX_ACCOUNTS": "mail_watcher_max_accounts",
    "WATCH_IDLE_SECONDS": "mail_watcher_idle_seconds",
    "WATCH_FOLDERS_SECONDS": "mail_watcher_folders_seconds",
    "WATCH_HOST_LOGINS_PER_SECOND": "mail_watcher_host_logins_per_second",
}
# The addresses of Redis and PostgreSQL follow from the groups of the inventory, the public key from the key.
_DERIVED = re.compile(r"REDIS_|DATABASE_|CELERY_BROKER_URL|CELERY_RESULT_BACKEND|FLOWER_|CREDENTIAL_PUBLIC_KEY")


def explained(error: BaseException, account: str | None = None) -> str:
    """An error and what can be done about it. `account` is the name of the account that has the error, if known."""
    from tasks.errors import EmailError

    found = error if isinstance(error, EmailError) else error.__cause__
    remedy = advice(found.remedy, account) if isinstance(found, EmailError) else None
    return said_here(str(error)) + (f" {remedy}" if remedy else "")


def advice_for_code(code: str | None, account: str | None = None, item_id: str | None = None) -> str | None:
    """What can be done about an error of which only the code is stored: see `advice`."""
    from tasks.errors import remedy_of

    return advice(remedy_of(code), account, item_id)


def advice(remedy: "Remedy | None", account: str | None = None, item_id: str | None = None) -> str | None:
    """What can be done, with the command of this place.

    `item_id` is the id of a message of the outbox or of a dead letter.
    """
    if remedy is None:
        return None
    values = {"COMMAND": place.COMMAND, "ACCOUNT": account and shlex.quote(account), "ID": item_id}
    return _PLACEHOLDER.sub(lambda found: values[found[0]] or found[0], _SENTENCES[remedy.name])


def said_here(text: str) -> str:
    """A text for this place: on a host, each variable of the
    environment is followed by its variable of the inventory."""
    if not place.IS_HOST:
        return text
    return _VARIABLE.sub(_with_name_in_inventory, text)


def name_in_inventory(variable: str) -> str | None:
    """Which variable of the inventory sets a variable of the environment on hosts; None where no single one does."""
    from tasks.settings import Settings

    groups = [field.annotation.model_fields for field in Settings.model_fields.values() if field.annotation]
    if not any(field.validation_alias == variable for group in groups for field in group.values()):
        return None
    if variable in _OTHER_NAMES:
        return _OTHER_NAMES[variable]
    return None if _DERIVED.match(variable) else f"application_{variable.lower()}"


def _with_name_in_inventory(found: re.Match[str]) -> str:
    name = name_in_inventory(found[0])
    return found[0] if name is None else f"{found[0]} ({name} in the inventory)"
