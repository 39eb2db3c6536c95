"""Whose a task is, as it is noted beside its state in the result store, and as its worker knows it.

A task's id says nothing of its owner. So each state that is noted has the tenant and the user of the task beside it.
One that waits in its queue has no state yet: whoever asks about it learns what an unknown id tells.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

_KEY = "metabuilder_owner"


class Owner(NamedTuple):
    """A tenant, and one of its users; without a user, any of them."""

    tenant_id: str
    user_id: str | None

    def owns(self, noted: Mapping[str, Any]) -> bool:
        """Whether the task is this tenant's and user's, by what is noted in the result store."""
        found = noted.get(_KEY)
        if not (isinstance(found, list) and len(found) == 2):
            return False
        return found[0] == self.tenant_id and self.user_id in (None, found[1])

    def mark(self, task_id: str) -> str:
        """In a worker's list of revoked ids: the task with this id, if it is this owner's."""
        return json.dumps([task_id, *self])


def note(task: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """What is noted of the owner of a task with these arguments; nothing for a task of Celery's own."""
    found = _owner(task, args, kwargs)
    return {_KEY: list(found)} if found else {}


def marks(task: Any, task_id: str, args: Any, kwargs: Any) -> list[str]:
    """Each `Owner.mark` that means this task: of its user, and of its whole tenant."""
    found = _owner(task, args, kwargs)
    return [one.mark(task_id) for one in (found, found._replace(user_id=None))] if found else []


def _owner(task: Any, args: Any, kwargs: Any) -> Owner | None:
    return Owner(*task.owner(args or (), kwargs or {})) if hasattr(task, "owner") else None
