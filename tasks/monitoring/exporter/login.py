"""Who is let in at the exporter: whoever Flower lets in, and the right login also while wrong ones are slowed down.

Flower looks at no login while too many wrong ones come from its address. But Prometheus shares its address with
everybody on its host. So the exporter looks at a few logins at a time all the same, each at its turn. A wrong login
keeps its turn for some seconds, which limits guesses; a right one keeps its turn only while it is compared.
"""

import time
from collections.abc import Sequence
from threading import Semaphore
from typing import NamedTuple

from tasks.monitoring.flower_door import TOO_MANY_REQUESTS, is_right, judge
from tasks.monitoring.throttle import Throttle


class Turns(NamedTuple):
    """How many logins at a time are looked at although too many wrong ones came, and for how many seconds a wrong one
    keeps its turn."""

    number: int
    seconds: float


# Four guesses a second, as many as Flower looks at from all addresses together.
TURNS = Turns(8, 2)


class Door:
    """`logins` are the right logins, each `user:password`."""

    def __init__(self, logins: Sequence[str], turns: Turns = TURNS) -> None:
        self._logins, self._throttle = logins, Throttle()
        self._turns, self._seconds = Semaphore(turns.number), turns.seconds

    def judge(self, authorization: str | None, address: str) -> tuple[int, float]:
        """Decide as `flower_door.judge` does; waits where the login is wrong and too many wrong ones came before."""
        status, wait = judge(authorization, address, self._logins, self._throttle)
        if status == TOO_MANY_REQUESTS and self._is_right_at_its_turn(authorization):
            self._throttle.right(address)
            return 0, 0
        return status, wait

    def _is_right_at_its_turn(self, authorization: str | None) -> bool:
        if not self._turns.acquire(blocking=False):
            return False
        try:
            if is_right(authorization, self._logins):
                return True
            time.sleep(self._seconds)
            return False
        finally:
            self._turns.release()
