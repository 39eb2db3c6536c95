"""Queues a sync as a caller does, follows the state of its task, and reports the result."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manage.output import progress, say, size, table
from manage.place import LOOK_AT_HEALTH
from native.errors import StackError
from tasks.secrecy.visible import visible

if TYPE_CHECKING:
    from tasks.storage.accounts.rows import Account

_COUNTS = {
    "messages_synced": "new",
    "messages_updated": "changed",
    "messages_deleted": "removed",
    "messages_quarantined": "kept aside, unreadable",
}
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 10


def queue_sync(account: "Account", *, full: bool = False) -> str:
    """Queue a sync as any caller does. Returns the id of its task. Raises BrokerUnavailableError.

    A task does not log in to an account that is paused or whose next login is not due. But here a person asks, so the
    login is tried once before. Raises an EmailError that says what is wrong with the account.
    """
    from tasks.celery_app import sync_emails
    from tasks.engine.probe import probe

    if account.paused_at is not None or account.login_retry_at is not None:
        probe(account)
    arguments = (account.id, account.tenant_id, account.user_id)
    return str(sync_emails.apply_async(arguments, {"force_full_sync": full}, retry=False).id)


def watch(task_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Draw the progress of a sync until it ends. Returns its result.

    Raises StackError when the sync fails, and ResultsUnavailableError when Redis does not tell its state, or takes no
    results, so that the end of the sync would never be seen.
    """
    from tasks.celery_app import celery_app
    from tasks.errors import EmailError

    with progress(quiet=quiet) as bars:
        bar = bars.add_task("queued", total=None)
        teller = _Teller()
        while True:
            state, info = _ask(task_id)
            if state == "SUCCESS":
                total = info["messages_synced"]
                bars.update(bar, description="done", completed=total, total=total, visible=total > 0)
                return dict(info)
            if state in ("FAILURE", "REVOKED"):
                raise StackError(f"the sync failed: {info}") from (info if isinstance(info, EmailError) else None)
            if teller.has_no_news(state, info):
                celery_app.backend.check_takes_results()
            teller.tell(state, info)
            if state == "PROGRESS":
                done = f"{info['folders_done']}/{info['folders_total']} folders"
                where = f"{info['folder']} ({done})" if info["folder"] else done
                bars.update(
                    bar,
                    description=visible(where),
                    completed=info["messages_done"],
                    total=info["messages_total"] or None,
                )
            time.sleep(_POLL_SECONDS)


def report(account: "Account", result: Mapping[str, Any]) -> None:
    """Print a table of the stored messages by folder, and what this sync did."""
    from tasks.storage.messages.folders import folder_summaries

    by_folder: Mapping[str, Mapping[str, Any]] = result.get("folders", {})
    rows = []
    for summary in folder_summaries(account.tenant_id, account.id):
        done = by_folder.get(summary.name, {})
        synced, seconds = done.get("synced", 0), done.get("seconds", 0.0)
        rows.append(
            (
                summary.name,
                str(summary.messages),
                str(summary.unread),
                str(summary.attachments),
                size(summary.size),
                f"{seconds:.2f}" if done else "",
                f"{synced / seconds:,.0f}" if synced and seconds else "",
            )
        )
    columns = ("folder", "messages", "unread", "attachments", "size", "seconds", "messages/s")
    table(columns, rows, right=columns[1:])
    say(summarise(account, result))


def summarise(account: "Account", result: Mapping[str, Any]) -> str:
    """What a sync did, in a sentence."""
    if result.get("status") == "already_running":
        return f"Another sync of {account.account_name} is at work: nothing was done twice"
    for folder, reason in result.get("failed_folders", {}).items():
        say(f"The folder {folder} could not be synced: {reason}")
    for folder, reason in result.get("incomplete_folders", {}).items():
        say(f"The folder {folder} is not complete: {reason}")
    seconds = float(result.get("sync_duration_seconds", 0))
    counts = {words: int(result.get(name, 0)) for name, words in _COUNTS.items()}
    if not any(counts.values()):
        return f"Nothing new: {account.account_name} was in sync (checked in {seconds:.2f} s)"
    done = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    return f"Synced {account.account_name} in {seconds:.2f} s: {done}"


class _Teller:
    """Prints once for what reason the sync waits."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._said: set[str] = set()
        self._news: tuple[str, object] = ("PENDING", None)
        self._last_news = self._started

    def has_no_news(self, state: str, info: object) -> bool:
        """Whether the state has been the same for a while; asked again, that is counted anew."""
        now = time.monotonic()
        is_long_ago = (state, info) == self._news and now - self._last_news > _PATIENCE_SECONDS
        if is_long_ago or (state, info) != self._news:
            self._news, self._last_news = (state, info), now
        return is_long_ago

    def tell(self, state: str, info: object) -> None:
        waited = time.monotonic() - self._started
        if state == "RETRY":
            # A retry without a reason means that another run is at work on the account.
            self._once(
                "Another sync of this account is at work; waiting"
                if info is None
                else f"The sync will be tried again: {info}"
            )
        elif state == "PENDING" and waited > _PATIENCE_SECONDS:
            self._once(f"Still waiting for a worker. Check that one is free. {LOOK_AT_HEALTH}")

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(text)


def _ask(task_id: str) -> tuple[str, Any]:
    from tasks.celery_app import celery_app

    meta = celery_app.backend.ask_patiently(task_id)
    return meta["status"], meta["result"]
