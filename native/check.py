"""What `health` finds out about one component."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One component: whether it works, what was seen, and what to do if it does not.

    `warns` is that a person should look though all components work; `figures` are what was counted, for machines.
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
    """For a component that nobody can be asked about, as another one is down."""
    return Check(component, False, f"not asked: {why}", "Mend that first")


def one_line(error: Exception) -> str:
    """What an error says, without the lines that say more."""
    return str(error).strip().partition("\n")[0].rstrip(".")
