"""When two envelopes are of one message."""

from datetime import UTC, datetime

import pytest

from tasks.engine.envelopes import is_same, message_id_of
from tasks.storage.messages.changes import Envelope

_NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
_KNOWN = Envelope(7, "a@x", 100, _NOON)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (_KNOWN, True),
        (_KNOWN._replace(uid=8), True),
        (_KNOWN._replace(size=101), True),  # servers that estimate sizes
        (_KNOWN._replace(received_at=None), True),
        (_KNOWN._replace(received_at=_NOON.replace(microsecond=5)), True),
        (_KNOWN._replace(message_id="b@x"), False),
        (_KNOWN._replace(size=101, received_at=None), False),  # the copy in another folder
        (_KNOWN._replace(message_id=None), True),
        (_KNOWN._replace(message_id=None, size=101), False),
        (_KNOWN._replace(message_id=None, received_at=None), False),
    ],
)
def test_is_same(seen: Envelope, expected: bool) -> None:
    assert is_same(_KNOWN, seen) is is_same(seen, _KNOWN) is expected


def test_messages_without_a_message_id() -> None:
    known = Envelope(7, None, 100, None)
    assert is_same(known, known._replace(uid=9))
    assert not is_same(known, known._replace(size=99))


def test_a_message_id_is_read_as_it_is_stored() -> None:
    assert message_id_of(b"Message-ID: <" + b"x" * 600 + b"@y>\r\n\r\n") == "x" * 500
    assert message_id_of(b"\r\n") is None
