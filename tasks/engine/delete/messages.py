"""Deletes messages, on their server and here: into Trash, or for good.

    if an id is not the caller's, no message is deleted; the ids are noted under the key of the work, so that a
    message that is gone when the task runs again counts as done, also when it runs as the retry of a dead letter
    one account after another, under its lease; one folder after another, in batches:
      the server first, then the rows              after a kill in between, the next run asks the server
      into Trash    the row gets the UID that the message has there; where the server does not tell the UID, a message
                    that came into Trash since the last sync is recognised by Message-ID and size; else the row
                    goes, and the next sync brings the message as a new one
      for good      the row goes

A message that is gone from the server already is no error. Without UIDPLUS a server can only remove all marked
messages, also those that other programs marked. So messages are only marked there; their rows stay, with
`is_deleted`, until the user's mail program expunges.
"""

import time
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from tasks.engine.connect import connected, connected_pop3
from tasks.engine.delete.imap import ImapDeletion
from tasks.engine.lease import leased_run
from tasks.engine.run import Progress, Run
from tasks.engine.sync.maildrop import identify
from tasks.engine.sync.unique_ids import other_messages
from tasks.errors import AnotherMessageError, EmailError, NotFoundError, ProtocolError, TooSlowError, TransientError
from tasks.mail.kinds import FolderType, MailProtocol
from tasks.settings import get_settings
from tasks.storage.accounts.rows import get_account
from tasks.storage.messages.deletions import (
    Target,
    expired_in_trash,
    find_messages,
    move_messages,
    note_messages,
    noted_messages,
    remove_messages,
)
from tasks.storage.messages.maildrop import local_folder
from tasks.storage.session import tenant_transaction

_TRASH = "Trash"

# How many ids an error names at most.
_NAMED = 5


class DeleteRequest(NamedTuple):
    """Which messages of which user to delete: into Trash, or for good."""

    tenant_id: str
    user_id: str
    email_ids: Sequence[str]
    permanent: bool


def delete_messages(
    request: DeleteRequest,
    task_id: str,
    task_key: str,
    budget_seconds: float,
    report: Callable[[Progress], None] | None = None,
) -> int:
    """Delete for about `budget_seconds` at most. Returns how many messages could only be marked as deleted.

    `task_key` is the same for every task that deletes the same messages. `report` is called after each batch.

    Raises NotFoundError, before any message is deleted, where not all messages are the caller's; CutShortError when
    the time is used up; and the errors of servers and storage, after the messages of the other accounts were deleted.
    """
    deadline = time.monotonic() + budget_seconds
    return _delete(request, _found(request, task_key, task_id), task_id, deadline, report)


def delete_expired(tenant_id: str, user_id: str, account_id: str, task_id: str, budget_seconds: float) -> int:
    """Delete a batch of messages that have been in the account's Trash for too long. Returns how many there were.

    Raises NotFoundError for an account that is not the caller's, and what `delete_messages` raises.
    """
    deadline = time.monotonic() + budget_seconds
    settings = get_settings().delete
    with tenant_transaction(tenant_id) as connection:
        get_account(connection, tenant_id, user_id, account_id)
        ids = expired_in_trash(
            connection, tenant_id, user_id, account_id, settings.trash_retention_days, settings.batch_size
        )
        # The ids are not noted: after a killed run, the next run finds the messages that are left.
        found = find_messages(connection, tenant_id, user_id, ids)
    _delete(DeleteRequest(tenant_id, user_id, ids, permanent=True), found, task_id, deadline)
    return len(ids)


def _delete(
    request: DeleteRequest,
    found: list[Target],
    task_id: str,
    deadline: float,
    report: Callable[[Progress], None] | None = None,
) -> int:
    marked = 0
    failures: list[EmailError] = []
    in_order = sorted(found, key=attrgetter("email_client_id", "folder_id"))
    for account_id, messages in groupby(in_order, attrgetter("email_client_id")):
        try:
            with leased_run(
                request.tenant_id, request.user_id, account_id, task_id, deadline, is_urgent=True, report=report
            ) as run:
                delete = _delete_from_pop3 if run.account.protocol == MailProtocol.POP3 else _delete_from_imap
                marked += delete(run, list(messages), request.permanent)
        except TooSlowError:
            raise  # no time is left for the other accounts
        except EmailError as error:
            failures.append(error)
    # A transient error is raised first, so that the task is retried; the retry also sees to the other accounts.
    for failure in sorted(failures, key=lambda error: not isinstance(error, TransientError)):
        raise failure
    return marked


def _found(request: DeleteRequest, task_key: str, task_id: str) -> list[Target]:
    # Also noted under the task's id, because a worker of the release before knows only the id.
    keys = {task_key, task_id} - {""}
    remembered_days = get_settings().worker.dead_letter_days + 1
    with tenant_transaction(request.tenant_id) as connection:
        found = find_messages(connection, request.tenant_id, request.user_id, request.email_ids)
        present = [message.id for message in found]
        known = {*present, *noted_messages(connection, request.tenant_id, keys, remembered_days)}
        strange = [email_id for email_id in dict.fromkeys(request.email_ids) if email_id not in known]
        if strange:
            raise NotFoundError(f"{_named(strange)}; nothing was deleted")
        note_messages(connection, request.tenant_id, keys, present)
    return found


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"message {', '.join(ids[:_NAMED])}{more}"


def _delete_from_imap(run: Run, messages: list[Target], permanent: bool) -> int:
    with connected(run.account) as imap:
        deletion = ImapDeletion(run, imap)
        marked = deletion.remove(messages) if permanent else deletion.move_to_trash(messages)
    if deletion.left:
        raise AnotherMessageError(_named([message.id for message in deletion.left]))
    return marked


def _delete_from_pop3(run: Run, messages: list[Target], permanent: bool) -> int:
    """Delete messages of a POP3 account.

    Its Trash exists here alone, so the server is told only of permanent deletions.
    """
    if not permanent:
        with run.transaction(durable=True) as connection:
            trash = local_folder(connection, run.account, _TRASH, FolderType.TRASH)
            moving = {message.id: None for message in messages if message.folder_id != trash.id}
            move_messages(connection, run.account, trash, None, moving)
        return 0
    by_uidl = {message.uidl: message for message in messages}
    with connected_pop3(run.account) as pop3:
        doomed = {listed: by_uidl[key] for listed, key in identify(run, pop3).items() if key in by_uidl}
        others = other_messages(pop3, {listed: message.envelope for listed, message in doomed.items()})
        there = {listed.number: message.uidl for listed, message in doomed.items() if listed not in others}
        refusals = pop3.delete(there)
    refused = {there[refusal.number] for refusal in refusals}
    with run.transaction(durable=True) as connection:
        # A message whose unique-id now belongs to another message is gone from the server.
        removed = [message.id for message in messages if message.uidl not in refused]
        remove_messages(connection, run.account, removed)
    if refusals:
        raise ProtocolError(f"the server refuses to delete {len(refused)} messages: {refusals[0].words}")
    return 0
