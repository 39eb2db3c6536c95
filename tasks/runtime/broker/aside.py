"""Task messages kept aside, in the broker's Redis beside the queues, where they stop nothing: those that no worker
can run, and those whose mail may have been sent before a restore of the database (tasks/restored.py).

    metabuilder:aside           a hash: the id of each, and the message as it was taken, [message, exchange, queue]
    metabuilder:aside:notes     a hash: the id of each, and why it is here (Note)
    metabuilder:aside:unknown   a sorted set: the ids of tasks that another release may know, and since when they wait

A message of an unknown task is taken by any worker that knows the task (tasks/runtime/search.py), as long as it has
waited for less than UNKNOWN_TASK_HOURS. The command `dlq` lists all these messages with the dead letters, and they
are deleted at the same age.

An id is the tag under which the message was delivered, and whoever can write to Redis can write any bytes there. So
an id stays as Redis gives it, and only people see it quoted (RFC 3986, section 2.1).
"""

import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

from celery.utils.functional import chunks
from kombu.utils.json import dumps, loads
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from uuid_utils import uuid4

from tasks.errors import EmailError, MaybeSentError, TaskUnknownError
from tasks.runtime.broker.clock import redis_now
from tasks.runtime.broker.queues import wake_key

_MESSAGES = "metabuilder:aside"
_NOTES = "metabuilder:aside:notes"
_UNKNOWN = "metabuilder:aside:unknown"
KEYS = {_MESSAGES: "hash", _NOTES: "hash", _UNKNOWN: "zset"}

_AT_A_TIME = 100
_MAX_WORD_LENGTH = 200
_END = 2**32  # Unix seconds, in the year 2106

# KEYS: kombu's table of delivered messages, its index, then the three keys above. ARGV: the tag, the note, and
# whether the message waits for a worker that knows its task. The removals come first, because a script that has begun
# to write may go on writing even when Redis is full.
_PUT = """
local entry = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if not entry then return end
redis.call('HSET', KEYS[3], ARGV[1], entry)
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
if ARGV[3] == '1' then redis.call('ZADD', KEYS[5], redis.call('TIME')[1], ARGV[1]) end
"""

# As _PUT, for a message that still waits. KEYS: its list of a queue, then the first two keys above. ARGV: the message
# as it lies there, the id that it gets, the queue as JSON, the note. Returns whether it lay there.
_PUT_WAITING = """
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], '[' .. ARGV[1] .. ', "", ' .. ARGV[3] .. ']')
redis.call('HSET', KEYS[3], ARGV[2], ARGV[4])
return 1
"""

# KEYS: the three keys above, then the queue and its tokens
# (tasks/runtime/broker/transport.py). ARGV: the id, the message.
_GIVE_BACK = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('RPUSH', KEYS[4], ARGV[2])
redis.call('LPUSH', KEYS[5], '')
return 1
"""

# KEYS: the three keys above. ARGV: a note, then ids: of those that are aside, this becomes the note.
_NOTE_AGAIN = """
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) + redis.call('HEXISTS', KEYS[2], ARGV[i]) > 0 then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[1])
  end
end
"""

Tag = bytes | str
Code = Literal["message_unreadable", "task_unknown", "maybe_sent"]


def _in_range(at: float) -> float:
    return min(max(at, 0), _END)


class Note(BaseModel):
    """Why a message is aside. `task_name` and `task_id` are None where the message does not name them."""

    model_config = ConfigDict(strict=True, frozen=True)

    code: Code
    error: str
    task_name: str | None
    task_id: str | None
    size: int  # bytes
    at: Annotated[float, Field(allow_inf_nan=False), AfterValidator(_in_range)]  # Unix seconds, by Redis's clock


def put(client: Any, tables: tuple[str, str], tag: Tag, error: EmailError, message: object, size: int) -> Note:
    """Put a delivered message aside.

    `tables` are kombu's table of delivered messages and its index. `message` may be anything that could be decoded.
    """
    note = _noted(client, error, message, size)
    client.eval(_PUT, 5, *tables, *KEYS, tag, note.model_dump_json(), int(note.code == "task_unknown"))
    return note


def put_waiting(client: Any, queue: str, key: str, found: bytes, error: EmailError) -> bool:
    """Put a message aside that waits in this list of a queue. False where it does not lie there any more."""
    note = _noted(client, error, loads(_text(found)), len(found))
    keys = (key, *list(KEYS)[:2])
    arguments = (found, str(uuid4()), dumps(queue), note.model_dump_json())
    return bool(client.eval(_PUT_WAITING, len(keys), *keys, *arguments))


def _noted(client: Any, error: EmailError, message: object, size: int) -> Note:
    headers = part(message, "headers")
    code: Code = "message_unreadable"
    if isinstance(error, TaskUnknownError | MaybeSentError):
        code = cast(Code, error.code)
    return Note(
        code=code,
        error=str(error),
        task_name=word(headers.get("task")),
        task_id=word(headers.get("id")),
        size=size,
        at=redis_now(client),
    )


def notes(client: Any) -> Iterator[tuple[Tag, Note]]:
    """The id of each message that is aside, and why. A note that cannot be read counts as written now."""
    for tag, note in _stored_notes(client):
        yield tag, note or _nothing_noted(time.time())


def count(client: Any) -> int:
    """How many messages are aside."""
    return int(client.hlen(_MESSAGES)) if client.type(_MESSAGES) == b"hash" else 0


def find(client: Any, tag: Tag) -> tuple[Note, object, str | None]:
    """The note of the message with this id, the message, and
    its queue; the last two are None where they cannot be read.

    Raises KeyError where no message with this id is aside.
    """
    text, entry = client.hget(_NOTES, tag), client.hget(_MESSAGES, tag)
    if text is None and entry is None:
        raise KeyError(tag)
    return _note(text) or _nothing_noted(time.time()), *split(entry)


def give_back(client: Any, tag: Tag) -> bool:
    """Put the message back on its queue, to be taken next.

    False where no such message is aside, or its queue is unknown.
    """
    message, queue = split(client.hget(_MESSAGES, tag))
    if queue is None:
        return False
    keys = (*KEYS, queue, wake_key(queue))
    return bool(client.eval(_GIVE_BACK, len(keys), *keys, tag, dumps(message)))


def drop(client: Any, *tags: Tag) -> None:
    """Delete the messages with these ids."""
    with client.pipeline(transaction=False) as pipe:
        for some in chunks(iter(tags), _AT_A_TIME):
            pipe.hdel(_MESSAGES, *some)
            pipe.hdel(_NOTES, *some)
            pipe.zrem(_UNKNOWN, *some)
        pipe.execute()


def delete_old(client: Any, age_seconds: float) -> int:
    """Delete the messages that were put aside longer than `age_seconds` ago. Returns how many.

    A message without a note that can be read, or with one from the future, counts as put aside now: its note is
    written anew, so that it ages.
    """
    now = redis_now(client)
    old, undated = [], []
    for tag, note in _stored_notes(client):
        if note is None or note.at > now:
            undated.append(tag)
        elif note.at < now - age_seconds:
            old.append(tag)
    drop(client, *old)
    for some in chunks(iter(undated), _AT_A_TIME):
        client.eval(_NOTE_AGAIN, len(KEYS), *KEYS, _nothing_noted(now).model_dump_json(), *some)
    return len(old)


def shown(tag: Tag) -> str:
    """The id as people see it."""
    return quote_from_bytes(tag if isinstance(tag, bytes) else tag.encode())


def tag_of(shown_id: str) -> bytes:
    """The id that people see in this form."""
    return unquote_to_bytes(shown_id)


def _stored_notes(client: Any) -> Iterator[tuple[Tag, Note | None]]:
    """The id of each message that is aside, and its note; None where there is none, or none that can be read."""
    seen = set()
    for tag, text in client.hscan_iter(_NOTES, count=_AT_A_TIME):
        if tag not in seen:  # HSCAN may return an entry twice
            seen.add(tag)
            yield tag, _note(text)
    for tag in client.hkeys(_MESSAGES):
        if tag not in seen:
            yield tag, None


def _note(text: bytes | str | None) -> Note | None:
    try:
        return Note.model_validate_json(text or "")
    except ValidationError:
        return None


def _nothing_noted(at: float) -> Note:
    return Note(
        code="message_unreadable", error="nothing is noted about it", task_name=None, task_id=None, size=0, at=at
    )


def split(entry: bytes | str | None) -> tuple[object, str | None]:
    """The message and its queue, read from the stored entry; each is None where it cannot be read."""
    try:
        message, _, queue = loads(_text(entry or b""))
    except Exception:  # whatever the bytes, JSON and kombu's own types make of them
        return None, None
    return message, queue if isinstance(queue, str) else None


def part(value: object, name: str) -> dict[str, Any]:
    """A part of a message that is a mapping; an empty mapping where there is no such part."""
    part = value.get(name) if isinstance(value, dict) else None
    return part if isinstance(part, dict) else {}


def word(value: object) -> str | None:
    """A name or id from a message as it may be shown; None where it is no plain word."""
    return value if isinstance(value, str) and len(value) <= _MAX_WORD_LENGTH and value.isprintable() else None


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
