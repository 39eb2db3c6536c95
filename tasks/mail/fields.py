"""Dates and message identifiers (RFC 5322 sections 3.3 and 3.6.4)."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_tz

_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_DATE = re.compile(
    r"(?:[A-Za-z]{3},[ \t]{0,4})?(\d{1,2}) ([A-Za-z]{3}) (\d{4}) (\d\d):(\d\d)(?::(\d\d))? "
    r"([+-])(\d\d)([0-5]\d)(?:[ \t]\([^()]{0,60}\))?"
)
_LONGEST_DATE = 200
# Mail is older than this, its clocks are not: a date outside is a broken clock or a broken program.
_FIRST_YEAR, _LAST_YEAR = 1970, 2199
_IN_ANGLES = re.compile(r"<([^<>]+)>")
_LONGEST_ID = 998


def date(value: str) -> datetime | None:
    """A date-time in UTC, or None where it cannot be read or lies outside 1970 to 2199. Never raises."""
    if match := _DATE.fullmatch(value):
        day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
        offset = int(zone_hours) * 60 + int(zone_minutes)
        return _in_utc(
            (int(year), _MONTHS.get(month.lower(), 0), int(day), int(hour), int(minute), int(second or 0)),
            -60 * offset if sign == "-" else 60 * offset,
        )
    return _unusual_date(value.strip())


def _unusual_date(value: str) -> datetime | None:
    if not value or len(value) > _LONGEST_DATE:
        return None
    if value[:4].isdigit() and value[4:5] == "-":
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        zone = moment.utcoffset() or timedelta()
        return _in_utc(moment.timetuple()[:6], int(zone.total_seconds()))
    try:
        parsed = parsedate_tz(value)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
    return _in_utc(parsed[:6], parsed[9] or 0) if parsed else None


def _in_utc(fields: tuple[int, ...], offset_seconds: int) -> datetime | None:
    year, month, day, hour, minute, second = fields
    if not _FIRST_YEAR <= year <= _LAST_YEAR or abs(offset_seconds) >= 24 * 3600:
        return None
    try:
        # A leap second is a second that Python does not have.
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except (OverflowError, ValueError):
        return None
    return moment - timedelta(seconds=offset_seconds) if offset_seconds else moment


def identifiers(value: str) -> tuple[str, ...]:
    """The identifiers of Message-ID, In-Reply-To or References without their angle brackets, in order."""
    if not value:
        return ()
    found = _IN_ANGLES.findall(value)
    if not found:
        # Some programs forget the brackets; what has no @ either is a phrase such as "your message of Monday".
        found = [word.strip("<>,;") for word in value.split() if "@" in word]
    return tuple(identifier for text in found if (identifier := "".join(text.split())[:_LONGEST_ID]))
