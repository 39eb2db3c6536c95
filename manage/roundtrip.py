"""The round that `demo` shows: messages are sent, received, checked for spam and deleted, each step by its task."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from manage.place import LOOK_AT_HEALTH
from native.errors import StackError

if TYPE_CHECKING:
    from tasks.storage.accounts.rows import Account

# How long to wait for each task of the round. Each takes well under a second on an idle machine.
_PATIENCE_SECONDS = 60
_GREETING = (
    "Hello from the demo",
    "Dear Dana,\n\nthis message went through the queue, SMTP, the mailbox, IMAP and the parser into PostgreSQL.\n",
    "<p>Dear Dana,</p><p>this message went through the <b>queue</b>, SMTP, the mailbox, IMAP and the parser into "
    "PostgreSQL.</p>",
)
# A phishing mail as it arrives every day; its links lead nowhere.
_PHISHING = (
    "Vеrify your account!!",
    "Your account has been suspended. Verify your account within 24 hours: http://192.0.2.7/login\n",
    "<p>Your account has been suspended. Verify your account within 24 hours:</p><p><a "
    'href="http://192.0.2.7/login">https://www.paypal.com/</a></p>',
)


class Step(NamedTuple):
    """One row of the table: what was done, by which task, with what result, in how many seconds."""

    what: str
    task: str
    result: str
    seconds: float

    def as_row(self) -> tuple[str, str, str, str]:
        """The cells of this row."""
        return self.what, self.task, self.result, f"{self.seconds:.2f}"


def go_round(account: "Account") -> list[Step]:
    """Send two messages to the account itself, receive them,
    check both for spam, and delete the second, which is spam.

    Raises StackError for a step that does not succeed.
    """
    from tasks.celery_app import check_spam, delete_emails, send_email, sync_emails

    who = (account.tenant_id, account.user_id)
    steps: list[Step] = []

    def run(what: str, task: Any, arguments: tuple[object, ...], tell: Callable[[dict[str, Any]], str]) -> Any:
        started = time.monotonic()
        result = _result_of(task, arguments)
        steps.append(Step(what, task.name.rpartition(".")[2], tell(result), time.monotonic() - started))
        return result

    sent = [
        run(
            f"send “{subject}”",
            send_email,
            (account.id, *who, [account.email_address], None, None, subject, text, html),
            lambda result: f"{result['recipients_sent']} recipient, accepted",
        )
        for subject, text, html in (_GREETING, _PHISHING)
    ]
    run("receive", sync_emails, (account.id, *who), lambda result: f"{result['messages_synced']} new")
    greeting, phishing = (_received(account, result["message_id"]) for result in sent)
    run("check the first", check_spam, (greeting, *who), _verdict)
    run("check the second", check_spam, (phishing, *who), _verdict)
    run("delete the second", delete_emails, ([phishing], *who), _removed)
    return steps


def _removed(result: dict[str, Any]) -> str:
    # A server that can neither move nor expunge single messages marks them.
    marked = f", {result['marked_count']} marked as deleted" if result["marked_count"] else ""
    return f"{result['deleted_count']} to Trash{marked}"


def _verdict(result: dict[str, Any]) -> str:
    called = "spam" if result["is_spam"] else "no spam"
    reasons = [indicator["rule"] for indicator in result["indicators"] if indicator["weight"] > 0]
    return f"{called}, {result['spam_score']:.2f}" + (f": {', '.join(reasons[:3])}" if reasons else "")


def _result_of(task: Any, arguments: tuple[object, ...]) -> dict[str, Any]:
    from celery.exceptions import TaskRevokedError
    from celery.exceptions import TimeoutError as NoResultError

    from tasks.errors import BrokerUnavailableError, EmailError

    name = task.name.rpartition(".")[2]
    try:
        return dict(task.apply_async(arguments, retry=False).get(timeout=_PATIENCE_SECONDS, interval=0.05))
    except NoResultError as error:
        raise StackError(f"{name} took longer than {_PATIENCE_SECONDS} s. {LOOK_AT_HEALTH}") from error
    except TaskRevokedError as error:
        raise StackError(f"{name} was not run: somebody revoked it. See ./manage.sh tasks revoked") from error
    except BrokerUnavailableError:
        raise
    except EmailError as error:
        raise StackError(f"{name} failed: {error}") from error


def _received(account: "Account", message_id: str) -> str:
    """The id of the message in INBOX. Raises StackError if it has not arrived."""
    from tasks.storage.messages.batch import find_message

    found = find_message(account, "inbox", message_id)
    if found is None:
        raise StackError(f"the message {message_id} was sent and did not arrive. {LOOK_AT_HEALTH}")
    return found
