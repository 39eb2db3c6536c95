"""Which conversation a message belongs to.

Where the server names the thread (Gmail), the thread is the conversation. Elsewhere a conversation is named after the
Message-ID of its first message. A reply joins the conversation of its nearest stored ancestor. If no ancestor is
stored, it joins the conversation that its first reference would have started, so that a parent which arrives later
finds the reply there. Only references decide (RFC 5322 section 3.6.4), never the subject. A message without
references and without a Message-ID belongs to no conversation.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sqlalchemy import Connection, text

from tasks.storage.accounts.rows import Account
from tasks.storage.events import INSERT_EVENTS

# Each identifier is looked up by itself, because a planner without statistics would read the whole account instead.
# (A LATERAL with LIMIT or OFFSET is not merged into one scan.)
_KNOWN = text(
    """
    SELECT ancestor.message_id, message.conversation_id
    FROM unnest(CAST(:message_ids AS text[])) AS ancestor (message_id)
    CROSS JOIN LATERAL (
      SELECT conversation_id FROM email_message
      WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND message_id = ancestor.message_id
        AND conversation_id IS NOT NULL
      LIMIT 1
    ) AS message
    """
)
_OF_CONVERSATIONS = text(
    """
    SELECT message.id, merged.into_id
    FROM unnest(CAST(:old_ids AS text[]), CAST(:new_ids AS text[])) AS merged (old_id, into_id)
    CROSS JOIN LATERAL (
      SELECT id FROM email_message
      WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND conversation_id = merged.old_id
      OFFSET 0
    ) AS message
    """
)
_MERGE = text(
    f"""
    WITH merged AS (
      UPDATE email_message AS message SET conversation_id = found.into_id
      FROM unnest(CAST(:ids AS text[]), CAST(:new_ids AS text[])) AS found (id, into_id)
      WHERE message.tenant_id = :tenant_id AND message.id = found.id
      RETURNING message.id, message.email_client_id, message.folder_id, message.conversation_id
    )
    {INSERT_EVENTS}
    SELECT :tenant_id, email_client_id, 'message.updated', jsonb_build_object(
      'email_message_id', id, 'folder_id', folder_id,
      'changes', jsonb_build_object('conversation_id', conversation_id)
    )
    FROM merged WHERE :is_told
    """
)


class Threaded(Protocol):
    """The fields that decide a message's conversation: identifiers
    without angle brackets, References from root to parent."""

    @property
    def message_id(self) -> str | None: ...
    @property
    def in_reply_to(self) -> tuple[str, ...]: ...
    @property
    def references(self) -> tuple[str, ...]: ...
    @property
    def thread_id(self) -> str | None: ...


class Assignment(NamedTuple):
    """The conversation of each message, in order, and which conversations are to be merged into which."""

    conversations: list[str | None]
    merges: dict[str, str]


def assign_conversations(connection: Connection, account: Account, messages: Sequence[Threaded]) -> list[str | None]:
    """The conversation of each message. Conversations that turn out to be the same are merged in the database."""
    key = {"tenant_id": account.tenant_id, "account_id": account.id}
    ancestors = {ancestor for message in messages for ancestor in ancestors_of(message)}
    known: dict[str, str] = {}
    if ancestors:
        rows = connection.execute(_KNOWN, {**key, "message_ids": list(ancestors)})
        known = {row.message_id: row.conversation_id for row in rows}
    assignment = assign(messages, known)
    if assignment.merges:
        _merge(connection, account, assignment.merges)
    return assignment.conversations


def _merge(connection: Connection, account: Account, merges: dict[str, str]) -> None:
    """Merge conversations that replies started before their parent arrived into the parent's. Rarely finds any."""
    names = {"old_ids": list(merges), "new_ids": list(merges.values())}
    key = {"tenant_id": account.tenant_id}
    found = connection.execute(_OF_CONVERSATIONS, {**key, "account_id": account.id, **names}).all()
    if found:
        ids, new_ids = [row.id for row in found], [row.into_id for row in found]
        values = {"ids": ids, "new_ids": new_ids, "is_told": account.has_synced}
        connection.execute(_MERGE, {**key, **values})


def assign(messages: Sequence[Threaded], known: dict[str, str]) -> Assignment:
    """Assign conversations without the database. `known` maps stored Message-IDs to their conversations."""
    conversation_of = dict(known)
    merges: dict[str, str] = {}
    conversations: list[str | None] = []
    for message in messages:
        if message.thread_id:
            # The server alone decides.
            conversations.append(message.thread_id)
            continue
        ancestors = ancestors_of(message)
        conversation = next((conversation_of[a] for a in ancestors if a in conversation_of), None)
        if conversation is None and (root := ancestors[0] if ancestors else message.message_id):
            conversation = conversation_of.get(root) or started_by(root)
        conversations.append(conversation)
        if message.message_id and conversation:
            conversation_of[message.message_id] = conversation
            own = started_by(message.message_id)
            if own not in merges and _final(conversation, merges) != own:
                merges[own] = conversation
    merges = {old: _final(new, merges) for old, new in merges.items()}
    return Assignment([merges.get(c, c) if c else None for c in conversations], merges)


def ancestors_of(message: Threaded) -> tuple[str, ...]:
    """The Message-IDs of the ancestors, from the root to the parent. In-Reply-To counts only if it names exactly one
    message and there are no References."""
    if message.references:
        return message.references
    return message.in_reply_to if len(message.in_reply_to) == 1 else ()


def started_by(message_id: str) -> str:
    """The conversation that this message starts if it is a root."""
    return hashlib.sha256(message_id.encode()).hexdigest()[:32]


def _final(conversation: str, merges: dict[str, str]) -> str:
    while conversation in merges:
        conversation = merges[conversation]
    return conversation
