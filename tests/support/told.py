"""What the application was told of: events, and whether they tell of exactly what became of the rows."""

from typing import Any

from sqlalchemy import Connection, text

from tasks.storage.events import Event, events_after, number_held_back
from tasks.storage.models import EVENT_SLOTS
from tasks.storage.session import tenant_transaction
from tests.support.stored import TENANT
from tests.support.worker import wait_until

_MESSAGES = """
    SELECT id, jsonb_build_object(
      'folder_id', folder_id, 'is_read', is_read, 'is_starred', is_starred, 'is_spam', is_spam,
      'is_not_spam', is_not_spam, 'is_draft', is_draft, 'is_sent', is_sent, 'is_deleted', is_deleted,
      'labels', labels, 'spam_score', spam_score, 'conversation_id', conversation_id
    ) FROM email_message
"""


def told(*types: str, after: str = "") -> list[Event]:
    """The tenant's events in order, all or of these types, once every transaction that held any back has ended."""
    wait_until(lambda: not number_held_back(TENANT), "an open transaction holds events back")
    return [event for event in events_after(TENANT, after, 10_000) if not types or event.type in types]


def data_of(*types: str, after: str = "") -> list[dict[str, Any]]:
    """What the events of these types say."""
    return [event.data for event in told(*types, after=after)]


def make_older(owner: Connection, days: int, below: int) -> None:
    """Let the events with lower numbers be so many days older."""
    owner.execute(
        text(
            "UPDATE event SET created_at = created_at - make_interval(days => :days), "
            "slot = ((slot - :days + :slots) % :slots)::smallint "
            "WHERE tenant_id = :tenant AND (data->>'number')::int < :below"
        ),
        {"days": days, "slots": EVENT_SLOTS, "tenant": TENANT, "below": below},
    )


class Witness:
    """Somebody who read all messages once, and from then on only events."""

    def __init__(self) -> None:
        self.position = next((event.position for event in reversed(told())), "")
        self.messages = _messages()

    def check(self) -> None:
        """What the events tell of is what became of the messages; each was made and removed at most once."""
        seen: set[str] = set()
        known, new = dict(self.messages), set()
        for event in told(after=self.position):
            assert event.id not in seen
            seen.add(event.id)
            message = event.data.get("email_message_id")
            if event.type == "message.created":
                assert message not in known, "made twice"
                known[message] = {"folder_id": event.data["folder_id"]}
                new.add(message)
            elif event.type == "message.deleted":
                assert known.pop(message)["folder_id"] == event.data["folder_id"]
            elif event.type == "message.updated":
                assert known[message]["folder_id"] == event.data["folder_id"]
                assert event.data["changes"]
                known[message] |= event.data["changes"]
            elif event.type == "folder.deleted":
                folder = event.data["folder_id"]
                known = {key: message for key, message in known.items() if message["folder_id"] != folder}
        now = _messages()
        assert known.keys() == now.keys()
        for key, message in known.items():
            assert message.items() <= now[key].items() if key in new else message == now[key]


def _messages() -> dict[str, dict[str, Any]]:
    with tenant_transaction(TENANT) as connection:
        return {row[0]: row[1] for row in connection.execute(text(_MESSAGES))}
