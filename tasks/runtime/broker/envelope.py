"""What a message must be like for a worker to run its task (Celery's message protocol, version 2, in JSON).

Whoever can write to a queue can write anything there, and Celery trusts most fields of a message: a time limit that
is no number ends the worker, and then the next worker that takes the message. So each message is checked here before
Celery sees it. The error for a message that fails the check names the field, never its content.

Headers that are not named here belong to other programs and are allowed, except for names that Celery itself uses for
facts about a running task.
"""

from base64 import b64decode
from collections.abc import Container
from copy import deepcopy
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from celery.app.task import Context
from celery.canvas import Signature
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.utils.json import loads
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.errors import MessageUnreadableError

_MAX_NAME_LENGTH = 512
_MAX_SECONDS = 30 * 24 * 3600
_MAX_RETRIES = 10_000
# How deep lists and mappings may be nested in a message, and in its body. Pickling a message for a child process ends
# the worker from about 480 levels on. What Celery writes stays far below: a task that follows adds 3 levels.
_MAX_DEPTH = 64
_YEARS = range(2000, 2200)
# Attributes of a running task, Celery's and our own. A header of the same name would overwrite the attribute.
_NOTES = {name for name in dir(Context) if not name.startswith("__")} | {"looks_again", "redeliveries", "task_id"}


def _is_clean(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has characters that cannot be shown")
    return text


def _is_moment(text: str) -> str:
    # Parse the time as Celery does.
    try:
        moment: datetime = maybe_make_aware(maybe_iso8601(text), UTC)
    except Exception:
        raise ValueError("is no moment in time") from None
    _is_of_this_age(moment)
    return text


def _is_of_this_age(moment: datetime) -> datetime:
    # Years in which no time zone or clock overflows.
    if moment.year not in _YEARS:
        raise ValueError("is no moment of this age")
    return moment


Name = Annotated[str, Field(min_length=1, max_length=_MAX_NAME_LENGTH), AfterValidator(_is_clean)]
Seconds = Annotated[float, Field(ge=0, le=_MAX_SECONDS, allow_inf_nan=False)]
Moment = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_is_moment)]
# A time is a string, or the datetime that kombu makes of JSON if the publisher gave a datetime.
When = Moment | Annotated[datetime, AfterValidator(_is_of_this_age)]
Count = Annotated[int, Field(ge=0, le=_MAX_RETRIES)]


class Strict(BaseModel):
    """Values are taken only in the type of their field, and errors do not repeat them."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


HeadersT = TypeVar("HeadersT", bound=Strict)
PropertiesT = TypeVar("PropertiesT", bound=Strict)


class _Headers(Strict):
    model_config = ConfigDict(extra="allow")

    task: Name
    id: Name
    lang: str = "py"
    shadow: Name | None = None
    root_id: Name | None = None
    parent_id: Name | None = None
    group: Name | None = None
    group_index: int | None = None
    retries: Count | None = 0
    timelimit: Annotated[list[Seconds | None], Field(min_length=2, max_length=2)] | None = None
    eta: Moment | None = None
    expires: Moment | None = None
    argsrepr: str | None = ""
    kwargsrepr: str | None = ""
    origin: str | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: Count | None = 0
    stamped_headers: list[Name] | None = None
    stamps: dict[Name, Any] | None = None
    # Not allowed: some kilobytes may unpack to gigabytes. Our own publishers do not compress.
    compression: None = None
    metabuilder_waits: Count = 0

    @model_validator(mode="after")
    def _leaves_notes_alone(self) -> "_Headers":
        if _NOTES & (self.model_extra or {}).keys():
            raise ValueError("a header has a name that is kept for the worker's own notes")
        return self


class _DeliveryInfo(Strict):
    exchange: str = ""
    routing_key: str = ""


class _Properties(Strict):
    correlation_id: Name | None = None
    reply_to: str | None = None
    priority: int | None = None
    body_encoding: Literal["base64"] | None = None
    delivery_info: _DeliveryInfo


class Envelope(Strict, Generic[HeadersT, PropertiesT]):
    """What is around the body of a message in Redis, as kombu writes it."""

    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: HeadersT
    properties: PropertiesT


_Task = Envelope[_Headers, _Properties]


class _Options(Strict):
    """Options with which the worker publishes a following task once this task is done."""

    task_id: Name | None = None
    queue: Name | None = None
    countdown: Seconds | None = None
    eta: When | None = None
    expires: When | Seconds | None = None
    priority: int | None = None
    link: "list[_Following] | _Following | None" = None
    link_error: "list[_Following] | _Following | None" = None
    serializer: Literal["json"] | None = None
    compression: None = None
    # Not allowed: in the publisher these are objects, in a message they could be anything.
    connection: None = None
    producer: None = None


class _Following(Strict):
    """A task that is queued when the task of this message is done."""

    task: Name
    args: list[Any]
    options: _Options

    @model_validator(mode="before")
    @classmethod
    def _can_be_built(cls, given: Any) -> Any:
        try:
            built = Signature.from_dict(deepcopy(given))
        except Exception:
            raise ValueError("is no task that could follow") from None
        if not isinstance(built.kwargs, dict):
            raise ValueError("is no task that could follow")
        return given


class _Embedded(Strict):
    callbacks: list[_Following] | None = None
    errbacks: list[_Following] | None = None
    chain: list[_Following] | None = None
    chord: _Following | None = None


class _Body(Strict):
    positional: list[Any]
    named: dict[str, Any]
    embedded: _Embedded | None


def check_envelope(raw: object) -> None:
    """Check everything in a message except the task's arguments. Raises MessageUnreadableError."""
    check_depth(raw)
    _check(_Task, raw)


def open_body(body: object) -> tuple[list[Any], dict[str, Any]]:
    """The arguments in a decoded body. Raises MessageUnreadableError."""
    if not isinstance(body, list | tuple) or len(body) != len(_Body.model_fields):
        raise MessageUnreadableError("the body is not a list of three")
    check_depth(body)
    _check(_Body, dict(zip(_Body.model_fields, body, strict=True)))
    return body[0], body[1]


def read_body(raw: Any) -> object:
    """The decoded body of a message whose envelope was checked. Raises MessageUnreadableError."""
    try:
        body = raw["body"]
        return loads(b64decode(body).decode() if raw["properties"].get("body_encoding") else body)
    except Exception as error:  # base64, UTF-8, JSON and kombu's own types raise many kinds
        raise MessageUnreadableError(type(error).__name__) from None


def check_depth(value: object) -> None:
    """Raises MessageUnreadableError where lists and mappings are nested too deep for a worker.

    Without recursion, as the value may be nested deeper than Python can call.
    """
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise MessageUnreadableError(f"lists and mappings are nested more than {_MAX_DEPTH} deep")


def _check(model: type[BaseModel], value: object) -> None:
    try:
        model.model_validate(value)
    except ValidationError as error:
        raise MessageUnreadableError(explain(error, _FIELDS)) from None


def explain(error: ValidationError, fields: Container[str]) -> str:
    """The field and the kind of mistake. Field names that only the message has are not repeated."""
    mistake = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in mistake["loc"] if isinstance(part, int) or part in fields)
    return f"{where or 'the message'}: {mistake['msg'].removeprefix('Value error, ')}"


_FIELDS = {
    name
    for model in (_Headers, _DeliveryInfo, _Properties, _Task, _Options, _Following, _Embedded, _Body)
    for field, info in model.model_fields.items()
    for name in (field, info.alias or field)
}
