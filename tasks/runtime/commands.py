"""The commands of Celery's remote control that a worker obeys, and what their arguments must be like.

Whoever can write to Redis can send commands, and Celery trusts their arguments. So a worker obeys only the commands
that this product uses (docs/decisions/0028): some of Flower's, those of tasks/runtime/control.py and of `health`. Any
other command, and a command with other arguments, is answered with an error and has no effect.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from kombu.log import get_logger
from pydantic import ConfigDict, Field, ValidationError

from tasks.runtime.broker.envelope import Name, Strict, explain

# Thinned out where many are refused (tasks/runtime/broker/outage.py).
_logger = get_logger(__name__)

_MAX_IDS = 20  # each may cost the worker's event loop a round trip to the result store
_MAX_PROCESSES = 32


class _Arguments(Strict):
    model_config = ConfigDict(extra="forbid")


class _Active(_Arguments):
    safe: bool | None = None


class _Registered(_Arguments):
    taskinfoitems: Annotated[list[str], Field(max_length=0)] | None = None


class _Conf(_Arguments):
    with_defaults: bool = False


class _Revoke(_Arguments):
    task_id: Name | Annotated[list[Name], Field(max_length=_MAX_IDS)]
    terminate: bool = False
    signal: Literal["TERM", "KILL", "INT", "QUIT", "SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT"] | None = None


class _Processes(_Arguments):
    n: Annotated[int, Field(ge=1, le=_MAX_PROCESSES)] = 1


_COMMANDS: dict[str, type[_Arguments]] = {
    # Look at the worker
    "ping": _Arguments,
    "stats": _Arguments,
    "active": _Active,
    "scheduled": _Arguments,
    "reserved": _Arguments,
    "revoked": _Arguments,
    "registered": _Registered,
    "active_queues": _Arguments,
    "conf": _Conf,
    # Have it tell of itself
    "enable_events": _Arguments,
    "heartbeat": _Arguments,
    # Steer it
    "revoke": _Revoke,
    "shutdown": _Arguments,
    "pool_grow": _Processes,
    "pool_shrink": _Processes,
}
_FIELDS = {field for model in _COMMANDS.values() for field in model.model_fields}

Handler = Callable[..., Any]


def guarded(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Celery's handlers of commands, by name, each with the check of its arguments or replaced by a refusal."""
    return {
        name: partial(_obey, name, handler) if name in _COMMANDS else partial(_refuse, name)
        for name, handler in handlers.items()
    }


def _obey(name: str, handler: Handler, state: Any, /, **arguments: Any) -> Any:
    try:
        given = _COMMANDS[name].model_validate(arguments)
    except ValidationError as error:
        return _error(name, explain(error, _FIELDS))
    if name == "pool_shrink" and isinstance(given, _Processes) and state.consumer.pool.num_processes <= given.n:
        return _error(name, "at least one process stays")
    return handler(state, **arguments)


def _refuse(name: str, _state: Any, /, **_arguments: Any) -> dict[str, str]:
    return _error(name, "workers do not take this command; change the settings and restart them instead")


def _error(name: str, why: str) -> dict[str, str]:
    _logger.warning("refused a command of remote control, %s: %s", name, why)
    return {"error": f"{name} is refused: {why}"}
