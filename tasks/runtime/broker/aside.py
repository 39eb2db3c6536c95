"""Task messages that no worker can run, kept aside: in the broker's Redis beside the queues, where they stop nothing.

    metabuilder:aside           a hash: the id of each, and the message as it was taken, [message, exchange, queue]
    metabuilder:aside:notes     a hash: the id of each, and why it is here (Note)
    metabuilder:aside:unknown   a sorted set: the ids of tasks that another release may know, and since when they wait

A message of an unknown task is taken by any worker that knows the task (tasks/runtime/consumer.py), as long as it has
waited for less than UNKNOWN_TASK_HOURS. The command `dlq` lists all these messages with the dead letters, and they
are deleted at the same age.
"""

import logging
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from kombu.utils.json import dumps, loads
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import EmailError, TaskUnknownError
from tasks.runtime.broker.clock import redis_now
from tasks.runtime.broker.queues import wake_key

logger = logging.getLogger(__name__)

_MESSAGES = "metabuilder:aside"
_NOTES = "metabuilder:aside:notes"
_UNKNOWN = "metabuilder:aside:unknown"
KEYS = {_MESSAGES: "hash", _NOTES: "hash", _UNKNOWN: "zset"}

_AT_A_TIME = 100
_MAX_WORD_LENGTH = 200

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

# KEYS: the sorted set. ARGV: how many seconds a message waits for a worker that knows its task. A message that has
# waited longer stays aside until a person acts.
_WAITING = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. now - tonumber(ARGV[1]))
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
"""


def _until_now(at: float) -> float:
    return min(max(at, 0), time.time())


class Note(BaseModel):
    """Why a message is aside. `task_name` and `task_id` are None where the message does not name them."""

    model_config = ConfigDict(strict=True, frozen=True)

    code: Literal["message_unreadable", "task_unknown"]
    error: str
    task_name: str | None
    task_id: str | None
    size: int  # bytes
    at: Annotated[float, Field(allow_inf_nan=False), AfterValidator(_until_now)]  # Unix seconds, by Redis's clock


def put(client: Any, tables: tuple[str, str], tag: str, error: EmailError, message: object, size: int) -> Note:
    """Put a delivered message aside.

    `tables` are kombu's table of delivered messages and its index. `message` may be anything that could be decoded.
    """
    headers = _part(message, "headers")
    is_unknown = isinstance(error, TaskUnknownError)
    note = Note(
        code="task_unknown" if is_unknown else "message_unreadable",
        error=str(error),
        task_name=_word(headers.get("task")),
        task_id=_word(headers.get("id")),
        size=size,
        at=redis_now(client),
    )
    client.eval(_PUT, 5, *tables, *KEYS, tag, note.model_dump_json(), int(is_unknown))
    return note


def notes(client: Any) -> Iterator[tuple[str, Note]]:
    """The id of each message that is aside, and why."""
    for tag, text in client.hscan_iter(_NOTES, count=_AT_A_TIME):
        yield _text(tag), _note(text)


def find(client: Any, tag: str) -> tuple[Note, object, str | None]:
    """The note of the message with this id, the message, and
    its queue; the last two are None where they cannot be read.

    Raises KeyError where no message with this id is aside.
    """
    text, entry = client.hget(_NOTES, tag), client.hget(_MESSAGES, tag)
    if text is None and entry is None:
        raise KeyError(tag)
    return _note(text), *split(entry)


def give_back(client: Any, tag: str) -> bool:
    """Put the message back on its queue, to be taken next.

    False where no such message is aside, or its queue is unknown.
    """
    message, queue = split(client.hget(_MESSAGES, tag))
    if queue is None:
        return False
    keys = (*KEYS, queue, wake_key(queue))
    return bool(client.eval(_GIVE_BACK, len(keys), *keys, tag, dumps(message)))


def drop(client: Any, tag: str) -> None:
    """Delete the message with this id."""
    with client.pipeline(transaction=False) as pipe:
        pipe.hdel(_MESSAGES, tag)
        pipe.hdel(_NOTES, tag)
        pipe.zrem(_UNKNOWN, tag)
        pipe.execute()


def delete_old(client: Any, age_seconds: float) -> int:
    """Delete the messages that were put aside longer than `age_seconds` ago. Returns how many."""
    oldest = redis_now(client) - age_seconds
    old = [tag for tag, note in notes(client) if note.at < oldest]
    for tag in old:
        drop(client, tag)
    return len(old)


def waiting(client: Any, hours: float) -> list[str]:
    """The ids of messages whose task no worker knew so far, the longest waiting first."""
    found = client.eval(_WAITING, 1, _UNKNOWN, int(hours * 3600))
    return [_text(tag) for tag in found[::2]]


def _note(text: bytes | str | None) -> Note:
    """The stored note; one that says so where the stored note cannot be read."""
    try:
        return Note.model_validate_json(text or "")
    except ValidationError:
        return Note(
            code="message_unreadable",
            error="nothing is noted about it",
            task_name=None,
            task_id=None,
            size=0,
            at=time.time(),
        )


def split(entry: bytes | str | None) -> tuple[object, str | None]:
    """The message and its queue, read from the stored entry; each is None where it cannot be read."""
    try:
        message, _, queue = loads(_text(entry or b""))
    except Exception:  # whatever the bytes, JSON and kombu's own types make of them
        return None, None
    return message, queue if isinstance(queue, str) else None


def _part(value: object, name: str) -> dict[str, Any]:
    part = value.get(name) if isinstance(value, dict) else None
    return part if isinstance(part, dict) else {}


def _word(value: object) -> str | None:
    """A name or id from a message as it may be shown; None where it is no plain word."""
    return value if isinstance(value, str) and len(value) <= _MAX_WORD_LENGTH and value.isprintable() else None


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
