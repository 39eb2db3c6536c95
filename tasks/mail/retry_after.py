"""Retry-After: when an HTTP server wants to be asked again (RFC 9110 section 10.2.3)."""

import time
from email.utils import parsedate_to_datetime

# No server makes us wait for longer.
_MAX_SECONDS = 3600


def seconds_to_wait(retry_after: str | None, date: str | None) -> float | None:
    """Seconds, from a number or from a date by the server's own clock (`date`); None where it says nothing usable."""
    if retry_after is None:
        return None
    try:
        if retry_after.isdigit():
            seconds = float(retry_after)
        else:
            now = parsedate_to_datetime(date).timestamp() if date else time.time()
            seconds = parsedate_to_datetime(retry_after).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_SECONDS)
