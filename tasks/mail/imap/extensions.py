"""Extensions that a server offers and refuses, which are then left out of commands (docs/decisions/0015).

An extension counts as refused if the server answers BAD to a command and takes the same command without the
extension, or if the connection broke twice in a row over it (once may have been the network). This is remembered for
a day only, because servers are mended.
"""

import time
from collections.abc import Mapping
from typing import Any

_REMEMBERED_SECONDS = 24 * 60 * 60


class Refusals:
    """The extensions that one server refuses.

    `known` is JSON by extension: since when it is refused, and how sure that is.
    """

    def __init__(self, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        now = time.time()
        # Entries of a host whose clock was far ahead are dropped as well.
        self.known = {
            name: dict(what) for name, what in (known or {}).items() if abs(now - what["since"]) < _REMEMBERED_SECONDS
        }
        self.has_changed = False
        self._of_this_connection: set[str] = set()

    @property
    def names(self) -> frozenset[str]:
        """The extensions that are not to be used."""
        return frozenset(self._of_this_connection.union(name for name, what in self.known.items() if what["is_sure"]))

    def refuse(self, extension: str, *, is_sure: bool = True) -> None:
        """Note that the server refuses the extension.

        If that is not sure, it may pass, and holds for this connection only.
        """
        self._of_this_connection.add(extension)
        if is_sure:
            self._remember(extension, is_sure=True)

    def broke(self, extension: str) -> None:
        """Note that the connection broke over the extension. The second time, the extension counts as refused."""
        self._of_this_connection.add(extension)
        self._remember(extension, is_sure=extension in self.known)

    def works(self, extension: str) -> None:
        """Note that the extension works after all."""
        if self.known.pop(extension, None):
            self.has_changed = True

    def _remember(self, extension: str, *, is_sure: bool) -> None:
        self.known[extension] = {"since": int(time.time()), "is_sure": is_sure}
        self.has_changed = True
