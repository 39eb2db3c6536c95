"""Reads the instant from a Date field (RFC 5322 section 3.3), in many ways of writing.

If a date does not follow the standard, its pieces are looked for one by one: the time, the zone, then the day in the
rest. A wrong hour is worse than no date, so text that could mean two instants counts as no date.
"""

import re
from datetime import UTC, datetime, timedelta

_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
# Months in other languages, from programs that ask the system
# for names: German, French, Spanish, Italian, Portuguese, Dutch.
_LOCAL_MONTHS = {
    "jän": 1, "ene": 1, "gen": 1, "fev": 2, "fév": 2, "mär": 3, "mrz": 3, "mrt": 3, "maa": 3, "avr": 4, "abr": 4,
    "mai": 5, "mei": 5, "mag": 5, "juin": 6, "giu": 6, "juil": 7, "lug": 7, "aoû": 8, "aou": 8, "ago": 8, "set": 9,
    "okt": 10, "ott": 10, "out": 10, "dez": 12, "dic": 12, "déc": 12,
}  # fmt: skip
# Time zones in hours from UTC. The American ones are from RFC 5322 section 4.3; BST means British time in mail. Names
# with two meanings, such as IST and AST, are left out.
_ZONES = {
    "UT": 0, "UTC": 0, "GMT": 0, "Z": 0, "WET": 0, "EGST": 0,
    "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7,
    "AKST": -9, "AKDT": -8, "HST": -10, "NST": -3.5, "NDT": -2.5, "ADT": -3, "BRT": -3, "BRST": -2, "ART": -3,
    "CLT": -4, "CLST": -3, "PET": -5, "VET": -4, "UYT": -3,
    "BST": 1, "WEST": 1, "CET": 1, "MET": 1, "MEZ": 1, "CEST": 2, "CEDT": 2, "MEST": 2, "MESZ": 2, "WAT": 1,
    "CAT": 2, "SAST": 2, "EET": 2, "OEZ": 2, "EEST": 3, "EEDT": 3, "OESZ": 3, "MSK": 3, "MSD": 4, "TRT": 3, "EAT": 3,
    "IRST": 3.5, "AZT": 4, "PKT": 5, "NPT": 5.75, "ICT": 7, "WIB": 7, "HKT": 8, "SGT": 8, "MYT": 8, "PHT": 8,
    "WITA": 8, "AWST": 8, "WIT": 9, "JST": 9, "KST": 9, "ACST": 9.5, "ACDT": 10.5, "AEST": 10, "AEDT": 11,
    "NZST": 12, "NZDT": 13,
}  # fmt: skip
_DATE = re.compile(
    r"(?:[A-Za-z]{3},[ \t]{0,4})?(\d{1,2}) ([A-Za-z]{3}) (\d{4}) (\d\d):(\d\d)(?::(\d\d))? "
    r"([+-])(\d\d)([0-5]\d)(?:[ \t]\([^()]{0,60}\))?"
)
_MAX_DATE_LENGTH = 200
# The years that a date may have: other years come from a wrong clock or a broken program.
_FIRST_YEAR, _LAST_YEAR = 1970, 2199

_PLAIN = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-", "_": " "})
_HALF = r"(?:\s?([ap])\.?\s?m\b\.?)?"
# Ways of writing a time: with colons; with dots, if there is no time with colons; ISO 8601's form without either.
_TIMES = (
    re.compile(rf"(?<![\d:])(\d{{1,2}})\s?:\s?(\d\d)(?:\s?:\s?(\d\d)(?:[.,]\d+)?)?(?![\d]){_HALF}", re.IGNORECASE),
    re.compile(rf"(?<![\d.])(\d{{1,2}})\.(\d\d)(?:\.(\d\d))?(?![\d.]\d){_HALF}", re.IGNORECASE),
    re.compile(r"(?<=\d)T(\d\d)(\d\d)(\d\d)?(?!\d)()", re.IGNORECASE),
)
_OFFSET = re.compile(r"(?:\b(?:GMT|UTC?|Z)\s?|(?<![^\W_]))([+-])\s?(\d{1,2}(?::\d\d){1,2}|\d+)", re.IGNORECASE)
_OFFSET_FIRST = re.compile(r"(?<=\s)([+-])(\d{4})(?=\s|$)")
_UNSIGNED_OFFSET = re.compile(r"(?<!\d)(?:0\d|1[0-4])[0-5]\d(?!\d)")
_WORD = re.compile(r"[^\W\d_]+")
_NAME = r"([^\W\d_]{3,})\.?"
_GAP = r"[\s,./-]*"
_DAYS = (
    (re.compile(rf"(?<!\d)(\d{{1,2}})(?:st|nd|rd|th)?{_GAP}{_NAME}{_GAP}'?(\d{{2,4}})(?!\d)", re.IGNORECASE), "dmy"),
    (re.compile(rf"{_NAME}{_GAP}(\d{{1,2}})(?:st|nd|rd|th)?[\s,./-]+'?(\d{{2,4}})(?!\d)", re.IGNORECASE), "mdy"),
    (re.compile(rf"(?<!\d)(\d{{4}}){_GAP}{_NAME}{_GAP}(\d{{1,2}})(?!\d)", re.IGNORECASE), "ymd"),
    (re.compile(r"(?<!\d)(\d{4})\s?[-/.年]\s?(\d{1,2})\s?[-/.月]\s?(\d{1,2})(?!\d)"), "ymd"),
    (re.compile(r"(?<!\d)(\d{4})(\d\d)(\d\d)(?!\d)"), "ymd"),
    (re.compile(r"(?<!\d)(\d{1,2})\.(\d{1,2})\.(\d{2,4})(?!\d)"), "dmy"),
    (re.compile(r"(?<!\d)(\d{1,2})[-/](\d{1,2})[-/](\d{4})(?!\d)"), "either"),
)
_NO_ZONE = frozenset({"MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN", "AT", "ON", "OF", "UHR"})
_LONG_ZONE = re.compile(
    r"\b(Eastern|Central|Mountain|Pacific) (Standard|Daylight) Time\b|\bCoordinated Universal Time\b", re.IGNORECASE
)


def date(value: str) -> datetime | None:
    """A date-time in UTC, or None where it cannot be known or lies outside 1970 to 2199. Never raises.

    A date without a zone is taken for UTC, as RFC 5322 section 4.3 takes zones without a meaning.
    """
    if match := _DATE.fullmatch(value):
        day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
        offset = int(zone_hours) * 60 + int(zone_minutes)
        return _in_utc(
            (int(year), _MONTHS.get(month.lower(), 0), int(day), int(hour), int(minute), int(second or 0)),
            -60 * offset if sign == "-" else 60 * offset,
        )
    return _unusual_date(value) if len(value) <= _MAX_DATE_LENGTH else None


def _unusual_date(value: str) -> datetime | None:
    text, comments = _without_comments(value.translate(_PLAIN))
    time = next((match for pattern in _TIMES if (match := pattern.search(text))), None)
    if time is None:
        return None
    before, after = text[: time.start()], text[time.end() :]
    if offset := _OFFSET.search(after):
        after = after[: offset.start()] + " " + after[offset.end() :]
    elif offset := _OFFSET_FIRST.search(before):
        before = before[: offset.start()] + before[offset.end() :]
    day = _day(f"{before} {_WORD.sub(lambda word: '' if word[0].upper() in _ZONES else word[0], after)}")
    seconds = _seconds(*offset.groups()) if offset else _named_zone(after, comments)
    if day is None or seconds is None:
        return None
    hour, minute, second, half = time.groups()
    return _in_utc((*day, _hour(int(hour), half), int(minute), int(second or 0)), seconds)


def _without_comments(text: str) -> tuple[str, str]:
    """The text, and what its comments say, the innermost of the last one first."""
    comments: list[str] = []
    while (opened := text.rfind("(")) >= 0:
        comment, _, rest = text[opened + 1 :].partition(")")
        comments.append(comment)
        text = f"{text[:opened]} {rest}"
    return text, " ".join(comments)


def _seconds(sign: str, digits: str) -> int | None:
    """A zone such as `+1`, `+01`, `+0100`, `+100`, `+01:00` or
    `+01:00:00` as seconds east of UTC; None for anything else."""
    if ":" in digits:
        hours, minutes = digits.split(":")[:2]
    elif len(digits) > 6 or len(digits) == 5:
        return None
    else:
        digits = digits.zfill(4) if len(digits) == 3 else digits
        hours, minutes = digits[:2], digits[2:4] or "0"
    if int(minutes) > 59:
        return None
    seconds = int(hours) * 3600 + int(minutes) * 60
    return -seconds if sign == "-" else seconds


def _named_zone(after: str, comments: str) -> int | None:
    """Seconds east of UTC by the zone's name, or by a comment; None if the name is not clear.

    A single letter means UTC (RFC 5322 section 4.3).
    """
    names, said = _names(after), _names(comments)
    if names and max(map(len, names)) > 1:
        return next((int(_ZONES[name] * 3600) for name in names if name in _ZONES), None)
    if offset := _OFFSET.search(comments):
        return _seconds(*offset.groups())
    if known := [name for name in names + said if name in _ZONES]:
        return int(_ZONES[known[0]] * 3600)
    is_doubtful = _UNSIGNED_OFFSET.search(after) or any(name in comments and 1 < len(name) < 6 for name in said)
    return None if is_doubtful else 0


def _names(text: str) -> list[str]:
    """The words that may name a zone, in capitals."""
    text = _LONG_ZONE.sub(lambda zone: "".join(word[0] for word in zone[0].split()), text)
    words = [word.upper() for word in _WORD.findall(text)]
    return [word for word in words if word[:3] not in _NO_ZONE and _month(word) == 0]


def _day(text: str) -> tuple[int, int, int] | None:
    """Year, month and day; None if day and month could be swapped."""
    for pattern, order in _DAYS:
        for match in pattern.finditer(text):
            found = dict(zip(order if order != "either" else "dmy", match.groups(), strict=True))
            day, year = int(found["d"]), int(found["y"])
            month = int(found["m"]) if found["m"].isdigit() else _month(found["m"])
            if order == "either" and month > 12:
                day, month = month, day
            elif order == "either" and day <= 12 and day != month:
                return None
            if month:
                return _full_year(year), month, day
    return None


def _month(name: str) -> int:
    """1 to 12 for a month's name or its beginning, else 0."""
    name = name.lower()
    return _LOCAL_MONTHS.get(name[:4]) or _MONTHS.get(name[:3]) or _LOCAL_MONTHS.get(name[:3], 0)


def _full_year(year: int) -> int:
    """A year of two or three digits as a full year (RFC 5322 section 4.3)."""
    if year < 50:
        return year + 2000
    return year + 1900 if year < 1000 else year


def _hour(hour: int, half: str | None) -> int:
    """The hour of 24. 12 AM is midnight; 22 PM is taken for an hour of 24 already."""
    if not half or hour > 12:
        return hour
    return hour % 12 + (12 if half in "pP" else 0)


def _in_utc(fields: tuple[int, ...], offset_seconds: int) -> datetime | None:
    year, month, day, hour, minute, second = fields
    if not _FIRST_YEAR <= year <= _LAST_YEAR or abs(offset_seconds) >= 24 * 3600:
        return None
    is_end_of_day = hour == 24 and minute == second == 0
    try:
        # A leap second is a second that Python does not have.
        moment = datetime(year, month, day, 0 if is_end_of_day else hour, minute, min(second, 59), tzinfo=UTC)
    except (OverflowError, ValueError):
        return None
    return moment + timedelta(days=is_end_of_day, seconds=-offset_seconds)
