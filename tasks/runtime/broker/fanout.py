"""What a message that Redis sends to all who listen must be like: a command of remote control, or an event.

Whoever can write to Redis can publish anything. kombu and Celery trust such a message: some end the worker, some make
it connect anew, and some are logged with all their words. So each is checked here first, and what fails is dropped.
The arguments of a command are checked in tasks/runtime/commands.py, which can answer.
"""

from functools import lru_cache
from time import monotonic
from typing import Annotated, Any, Literal

from kombu.log import get_logger
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from pydantic import ConfigDict, Field, model_validator

from tasks.runtime.broker.envelope import Count, Envelope, Moment, Name, Seconds, Strict, check_depth, read_body

_logger = get_logger(__name__)

_MAX_BYTES = 16 * 1024 * 1024
_MAX_NUMBER, _MAX_TIMESTAMP = 2**63, 2**32
_LOG_EVERY_SECONDS = 60


Number = Annotated[int, Field(ge=0, le=_MAX_NUMBER)]


class _Headers(Strict):
    clock: Number | None = None
    compression: None = None  # some kilobytes may unpack to gigabytes


class _Properties(Strict):
    delivery_tag: Name
    body_encoding: Literal["base64"] | None = None
    delivery_info: dict[str, Any] | None = None


_Published = Envelope[_Headers, _Properties]


class _Address(Strict):
    exchange: Literal["reply.celery.pidbox"]  # else an answer could be queued as a task
    routing_key: Name


class _Command(Strict):
    method: Name
    arguments: dict[str, Any] | None = None
    destination: list[str] | None = None
    pattern: str | None = None
    matcher: Literal["glob"] | None = None  # a regular expression may take hours
    reply_to: _Address | None = None
    ticket: Name | None = None


class _Event(Strict):
    """What a worker, or a publisher of tasks, tells of itself."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, Field(max_length=64, pattern="^(task|worker)-[a-z-]+$")]
    hostname: Name
    timestamp: Annotated[float, Field(ge=0, le=_MAX_TIMESTAMP, allow_inf_nan=False)]
    utcoffset: Annotated[float, Field(ge=-24, le=24, allow_inf_nan=False)] = 0
    clock: Number = 0
    pid: Number | None = None
    # Of a worker
    freq: Seconds | None = None
    active: Number | None = None
    processed: Number | None = None
    loadavg: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=3)] | None = None
    sw_ident: str | None = None
    sw_ver: str | None = None
    sw_sys: str | None = None
    # Of a task
    uuid: Name | None = None
    name: Name | None = None
    args: str | None = None
    named: Annotated[str | None, Field(alias="kwargs")] = None
    root_id: Name | None = None
    parent_id: Name | None = None
    retries: Count | None = None
    eta: Moment | None = None
    expires: Moment | None = None
    exchange: str | None = None
    routing_key: str | None = None
    runtime: Seconds | None = None
    result: str | None = None
    exception: str | None = None
    traceback: str | None = None

    @model_validator(mode="after")
    def _can_be_stored(self) -> "_Event":
        if self.type.startswith("task-") and self.uuid is None:
            raise ValueError("a task has no id")
        if _kept_names() & (self.model_extra or {}).keys():
            raise ValueError("a field has a name that is kept for the receiver's own notes")
        return self


@lru_cache
def _kept_names() -> frozenset[str]:
    """Attributes of a task or a worker where events are received. A field of the same name would overwrite them."""
    # Imported here, as only Flower gets events.
    from celery.events.state import Task, Worker

    names = {*dir(Task), *Task._fields, *dir(Worker), *Worker._fields, "children", "cluster_state"}
    return frozenset(names - {info.alias or name for name, info in _Event.model_fields.items()})


class Sieve:
    """Takes the content out of messages that are neither commands nor events, so that kombu passes them over."""

    def __init__(self) -> None:
        self._dropped, self._silent_until = 0, 0.0

    def __call__(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The message as kombu's transport read it; its `data` is None if it is dropped."""
        data = payload["data"]
        if not bytes_to_str(payload["type"]).endswith("message"):
            return payload
        try:
            _check(bytes_to_str(payload["channel"]), data)
        except Exception:  # JSON, base64, UTF-8 and pydantic raise many kinds, and their words may be the message's
            self._say_dropped(len(data))
            return {**payload, "data": None}
        return payload

    def _say_dropped(self, size: int) -> None:
        self._dropped += 1
        if monotonic() < self._silent_until:
            return
        _logger.error(
            "dropped what was published to workers and is no message of remote control: %s bytes (%s dropped so far)",
            size,
            self._dropped,
        )
        self._silent_until = monotonic() + _LOG_EVERY_SECONDS


def _check(channel: str, data: bytes) -> None:
    if len(data) > _MAX_BYTES:
        raise ValueError("too many bytes")
    message = loads(bytes_to_str(data))
    _Published.model_validate(message)
    body = read_body(message)
    check_depth(message)
    check_depth(body)
    if channel.endswith(".pidbox"):
        _check_command(_Command.model_validate(body))
    else:
        for event in body if isinstance(body, list) else [body]:
            _Event.model_validate(event)


def _check_command(command: _Command) -> None:
    # Imported here, as only workers get commands.
    from celery.worker.control import Panel

    if command.method not in Panel.data:
        raise ValueError("there is no such command")
