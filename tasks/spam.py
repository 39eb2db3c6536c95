"""check_spam: a scored and explained verdict on a message. The work is in tasks/engine/spam.py."""

import logging
import time
from typing import Any

from celery import shared_task
from kombu.exceptions import OperationalError

from tasks.engine.spam import ask_engines, check_message
from tasks.errors import SpamEngineUnavailableError, TransientError
from tasks.registry import ASK_SPAM_ENGINES, CHECK_SPAM
from tasks.runtime.task import EmailTask
from tasks.settings import get_settings

logger = logging.getLogger(__name__)

# The share of the time budget after which no new batch begins: an
# engine may take its whole timeout for each message of the last batch.
_BUDGET_SHARE = 2 / 3


@shared_task(bind=True, base=EmailTask, name=CHECK_SPAM, max_retries=2, default_retry_delay=10)
def check_spam(self: Any, email_id: str, tenant_id: str, user_id: str) -> dict[str, Any]:
    """Check one stored message, and store its score.

    Returns `status`, is_spam, spam_score (0 to 1), indicators (a list of {rule, weight, detail}) and decided_by:
    "user" where a keyword or the folder says whether it is spam, or "score". Raises NotFoundError.
    """
    try:
        decision = check_message(tenant_id, user_id, email_id)
    except TransientError as error:
        raise self.retry(exc=error, countdown=self.retry_delay()) from error
    return {
        "status": "success",
        "is_spam": decision.is_spam,
        "spam_score": decision.verdict.score,
        "indicators": [indicator._asdict() for indicator in decision.verdict.indicators],
        "decided_by": decision.decided_by,
    }


@shared_task(bind=True, base=EmailTask, name=ASK_SPAM_ENGINES, max_retries=2, default_retry_delay=10)
def ask_spam_engines(self: Any, email_client_id: str, tenant_id: str, user_id: str) -> dict[str, Any]:
    """Ask the spam engines about an account's new messages after a sync.

    A task that is run again goes on where it stopped.

    Returns `status` (success; handed_on: a fresh task goes on; engine_unavailable: the score of the rules stays until
    the next sync that brings mail queues this task again) and messages_checked.
    """
    deadline = time.monotonic() + get_settings().worker.budget_seconds * _BUDGET_SHARE
    checked = 0
    try:
        while time.monotonic() < deadline:
            asked = ask_engines(tenant_id, user_id, email_client_id)
            if not asked:
                return {"status": "success", "messages_checked": checked}
            checked += asked
    except SpamEngineUnavailableError as error:
        logger.warning("new mail keeps the verdict of the rules: %s", error)
        return {"status": "engine_unavailable", "messages_checked": checked, "detail": str(error)}
    except TransientError as error:
        raise self.retry(exc=error, countdown=self.retry_delay()) from error
    ask_spam_engines.delay(email_client_id, tenant_id, user_id)
    return {"status": "handed_on", "messages_checked": checked}


def queue_engines(email_client_id: str, tenant_id: str, user_id: str) -> None:
    """Queue `ask_spam_engines` for the messages that a sync brought, if there are engines.

    Errors do not fail the sync.
    """
    if not get_settings().spam.check_enabled or not get_settings().spam.has_engine:
        return
    try:
        ask_spam_engines.delay(email_client_id, tenant_id, user_id)
    except OperationalError as error:
        logger.warning("spam engines are asked after the next sync: %s", error)
