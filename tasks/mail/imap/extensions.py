"""Extensions that a server offers and does not bear, and how to ask without them (docs/decisions/0015).

A server that answers BAD to a question and takes the same question without an extension does not bear that extension.
So does one whose connection broke twice in a row over it; once may have been the network. Either is remembered for a
day, since servers are mended, too.
"""

import time
from collections.abc import Mapping
from typing import Any

_REMEMBERED_SECONDS = 24 * 60 * 60


class Refusals:
    """What one server refuses of its extensions. `known` is JSON by extension: since when, and how sure that is."""

    def __init__(self, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        now = time.time()
        # What a host noted whose clock was far ahead is forgotten as well.
        self.known = {
            name: dict(what) for name, what in (known or {}).items() if abs(now - what["since"]) < _REMEMBERED_SECONDS
        }
        self.has_changed = False
        self._of_this_connection: set[str] = set()

    @property
    def names(self) -> frozenset[str]:
        """What is not to be asked for."""
        return frozenset(self._of_this_connection.union(name for name, what in self.known.items() if what["is_sure"]))

    def refuse(self, extension: str, *, is_sure: bool = True) -> None:
        """The server refuses it; what is not sure may be a passing trouble, and holds for this connection only."""
        self._of_this_connection.add(extension)
        if is_sure:
            self._remember(extension, is_sure=True)

    def broke(self, extension: str) -> None:
        """The connection broke over it: for the second time, it is believed."""
        self._of_this_connection.add(extension)
        self._remember(extension, is_sure=extension in self.known)

    def works(self, extension: str) -> None:
        """The server bears it after all."""
        if self.known.pop(extension, None):
            self.has_changed = True

    def _remember(self, extension: str, *, is_sure: bool) -> None:
        self.known[extension] = {"since": int(time.time()), "is_sure": is_sure}
        self.has_changed = True
