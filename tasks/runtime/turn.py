"""A turn that one run of a task has at a time: a key in the broker's Redis, which expires unless the run keeps it."""

from celery import Celery

from tasks.runtime.broker.transport import broker_client

_EXPIRES_MS = 5_000


class Turn:
    """The turn of this name, asked for by a run with a unique name."""

    def __init__(self, app: Celery, name: str, run: str) -> None:
        self._app, self._key, self._run = app, f"metabuilder:turn:{name}", run

    def keep(self) -> bool:
        """Take the turn if it is free, or keep it for some seconds more. Returns whether this run has it now."""
        with broker_client(self._app) as client:
            if client.set(self._key, self._run, nx=True, px=_EXPIRES_MS):
                return True
            return self._is_mine(client.get(self._key)) and bool(client.pexpire(self._key, _EXPIRES_MS))

    def give_up(self) -> None:
        """Let others have the turn, if this run has it."""
        with broker_client(self._app) as client:
            if self._is_mine(client.get(self._key)):
                client.delete(self._key)

    def _is_mine(self, found: bytes | str | None) -> bool:
        return found in (self._run, self._run.encode())
