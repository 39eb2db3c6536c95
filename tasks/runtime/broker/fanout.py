"""What a message that Redis sends to all who listen must be like: a command of remote control, or an event.

Whoever can write to Redis can publish anything. kombu and Celery trust such a message: some end the worker, some make
it connect anew, and some are logged with all their words. So each is checked here first, and what fails is dropped.
"""

import inspect
from time import monotonic
from typing import Annotated, Any, Literal

from kombu.log import get_logger
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from pydantic import BaseModel, ConfigDict, Field

from tasks.runtime.broker.envelope import Name, check_depth, read_body

_logger = get_logger(__name__)

_MAX_BYTES = 16 * 1024 * 1024
_MAX_CLOCK = 2**63
_LOG_EVERY_SECONDS = 60


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


class _Headers(_Strict):
    clock: Annotated[int, Field(ge=0, le=_MAX_CLOCK)] | None = None
    compression: None = None  # some kilobytes may unpack to gigabytes


class _Properties(_Strict):
    delivery_tag: Name
    body_encoding: Literal["base64"] | None = None
    delivery_info: dict[str, Any] | None = None


class _Envelope(_Strict):
    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties


class _Address(_Strict):
    exchange: Name
    routing_key: Name


class _Command(_Strict):
    method: Name
    arguments: dict[str, Any] | None = None
    destination: list[str] | None = None
    pattern: str | None = None
    matcher: Literal["glob"] | None = None  # a regular expression may take hours
    reply_to: _Address | None = None
    ticket: Name | None = None


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
    _Envelope.model_validate(message)
    body = read_body(message)
    check_depth(message)
    check_depth(body)
    if channel.endswith(".pidbox"):
        _check_command(_Command.model_validate(body))


def _check_command(command: _Command) -> None:
    # Imported here, as only workers get commands.
    from celery.worker.control import Panel

    inspect.signature(Panel.data[command.method]).bind(None, **command.arguments or {})
