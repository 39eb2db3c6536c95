"""The owner of a task (tenant and user): as stored beside the task's state, and as its worker knows the owner.

A task's id says nothing about its owner. So the tenant and the user of the task are stored with each of its states. A
task that waits in its queue has no state yet: whoever asks about it gets the same answer as for an unknown id.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

_KEY = "metabuilder_owner"


class Owner(NamedTuple):
    """A tenant and one of its users. Without a user, every user of the tenant."""

    tenant_id: str
    user_id: str | None

    def owns(self, noted: Mapping[str, Any]) -> bool:
        """Whether a task belongs to this owner, by what the result store says about the task."""
        found = noted.get(_KEY)
        if not (isinstance(found, list) and len(found) == 2):
            return False
        return found[0] == self.tenant_id and self.user_id in (None, found[1])

    def mark(self, task_id: str) -> str:
        """The entry for a worker's list of revoked ids that means: the task with this id, if this owner owns it."""
        return json.dumps([task_id, *self])


def note(task: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The owner of a task with these arguments, as stored with its state; empty for a task of Celery's own."""
    found = _owner(task, args, kwargs)
    return {_KEY: list(found)} if found else {}


def marks(task: Any, task_id: str, args: Any, kwargs: Any) -> list[str]:
    """Every `Owner.mark` that means this task: the mark of its user, and the mark of its whole tenant."""
    found = _owner(task, args, kwargs)
    return [one.mark(task_id) for one in (found, found._replace(user_id=None))] if found else []


def _owner(task: Any, args: Any, kwargs: Any) -> Owner | None:
    return Owner(*task.owner(args or (), kwargs or {})) if hasattr(task, "owner") else None
