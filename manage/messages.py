"""How a task message is shown: what it asks for, without anybody's mail."""

from typing import TYPE_CHECKING, Any

from manage.session import application

if TYPE_CHECKING:
    from tasks.runtime.broker.contents import Waiting

_MAX_LENGTH = 200  # characters of the arguments in a table


def shown(found: "Waiting") -> dict[str, Any]:
    """What may be shown of a message: arguments redacted, None for what cannot be read."""
    application()  # its tasks say which arguments may be shown
    from tasks.runtime.dead_letters import shown_arguments

    headers = {name: found.header(name) for name in ("task", "id", "eta", "expires")}
    return {**headers, "arguments": shown_arguments(found.message), "bytes": found.size}


def on_a_line(arguments: dict[str, Any] | None) -> str:
    """Redacted arguments in a cell of a table."""
    if arguments is None:
        return "cannot be read"
    named = (f"{name}={value}" for name, value in arguments["kwargs"].items())
    return shortened(", ".join((*map(str, arguments["args"]), *named)))


def shortened(text: str) -> str:
    """A text that fits into a cell of a table."""
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"


def short(task: str | None) -> str:
    """The name of a task as people type it: the last part."""
    return task.rpartition(".")[2] if task else "?"
