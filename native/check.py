"""The result of `health` for one component, and what the native stack and a site say alike."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One component: whether it works, what was seen, and what to do if it does not.

    `warns` means that a person should look although the component works. `figures` are numbers for programs.
    """

    component: str
    ok: bool
    detail: str
    advice: str = ""
    warns: bool = False
    figures: Mapping[str, float | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def not_asked(component: str, why: str) -> Check:
    """The check of a component that cannot be asked because another one is down."""
    return Check(component, False, f"not asked: {why}", f"First mend this: {why}")


def names_revoked(names: Sequence[str], command: str) -> Check:
    """The check for names of tasks that are revoked, with a warning if there are any. `command` runs verbs here."""
    if not names:
        return Check("revoked", True, "no task is revoked by its name")
    tasks = ", ".join(name.rpartition(".")[2] for name in names)
    advice = f"When they may run again: {command} task:revoke --name NAME --lift"
    return Check("revoked", True, f"workers drop every task {tasks}, which somebody revoked", advice, warns=True)


def duration(seconds: float) -> str:
    """Seconds for people: 2 d 03:04:05."""
    whole = int(seconds)
    days, rest = divmod(whole, 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock


def one_line(error: Exception) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0].rstrip(".")
