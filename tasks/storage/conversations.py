"""Which conversation a message belongs to.

A conversation is named after the Message-ID at its root. A reply joins the conversation of the ancestor we know,
else the one that its first reference would have started, so a reply that arrives before its parent is found by it
later. Only references decide (RFC 5322 section 3.6.4): a subject never does, and a message that names no other and
has no Message-ID belongs to none.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sqlalchemy import Connection, text

from tasks.storage.accounts import Account

_KNOWN = text(
    """
    SELECT message_id, conversation_id FROM email_message
    WHERE tenant_id = :tenant_id AND email_client_id = :account_id AND message_id = ANY(:message_ids)
      AND conversation_id IS NOT NULL
    """
)
# A parent arrived after its replies: what they started is part of its own conversation.
_MERGE = text(
    """
    UPDATE email_message AS message SET conversation_id = merged.into_id
    FROM unnest(CAST(:old_ids AS text[]), CAST(:new_ids AS text[])) AS merged (old_id, into_id)
    WHERE message.tenant_id = :tenant_id AND message.email_client_id = :account_id
      AND message.conversation_id = merged.old_id
    """
)


class Threaded(Protocol):
    """What says where a message belongs: identifiers without angle brackets, References from root to parent."""

    @property
    def message_id(self) -> str | None: ...
    @property
    def in_reply_to(self) -> tuple[str, ...]: ...
    @property
    def references(self) -> tuple[str, ...]: ...


class Assignment(NamedTuple):
    """The conversation of each message, in order, and which conversations became part of which others."""

    conversations: list[str | None]
    merges: dict[str, str]


def assign_conversations(connection: Connection, account: Account, messages: Sequence[Threaded]) -> list[str | None]:
    """The conversation of each message; conversations that turn out to be one are joined in the database."""
    key = {"tenant_id": account.tenant_id, "account_id": account.id}
    ancestors = {ancestor for message in messages for ancestor in ancestors_of(message)}
    known: dict[str, str] = {}
    if ancestors:
        rows = connection.execute(_KNOWN, {**key, "message_ids": list(ancestors)})
        known = {row.message_id: row.conversation_id for row in rows}
    assignment = assign(messages, known)
    if assignment.merges:
        old_ids, new_ids = list(assignment.merges), list(assignment.merges.values())
        connection.execute(_MERGE, {**key, "old_ids": old_ids, "new_ids": new_ids})
    return assignment.conversations


def assign(messages: Sequence[Threaded], known: dict[str, str]) -> Assignment:
    """Pure: `known` maps Message-IDs that are stored to their conversations."""
    conversation_of = dict(known)
    merges: dict[str, str] = {}
    conversations: list[str | None] = []
    for message in messages:
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
    """From the root to the parent. In-Reply-To counts only where it names one message and References none."""
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
