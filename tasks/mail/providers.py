"""The providers of most people's mail, by the names of their servers."""

import re

OTHER = "other"
# As in the function count_accounts of the database (storage/migrations/versions/0024_counts_over_all_tenants.py).
_PROVIDERS = {
    "google": r"(^|\.)(gmail|googlemail|google)\.com$",
    "microsoft": r"(^|\.)(office365|outlook|hotmail|live)\.com$",
    "yahoo": r"(^|\.)(yahoo|aol|yahoodns)\.(com|net|co\.jp)$",
    "apple": r"(^|\.)(me|icloud|mac)\.com$",
    "united_internet": r"(^|\.)(gmx|web|1und1|ionos|mail)\.(net|de|com)$",
}
PROVIDERS = frozenset({*_PROVIDERS, OTHER})


def provider_of(hostname: str) -> str:
    """The provider that runs the mail server of this name; `other` for all the rest."""
    name = hostname.lower()
    return next((provider for provider, pattern in _PROVIDERS.items() if re.search(pattern, name)), OTHER)


# Servers that end a silent connection earlier than RFC 2177 has them, by their names, and after how many seconds.
_IDLE_SECONDS = {
    r"(^|\.)(yahoo|aol|yahoodns)\.(com|net|co\.jp)$": 180,
    r"(^|\.)(163|126|yeah)\.(com|net)$": 50,
    r"(^|\.)rambler\.ru$": 50,
}


def idle_seconds_of(hostname: str, usual: int) -> int:
    """For how many seconds a connection to this mail server may be silent, at most the `usual` number."""
    name = hostname.lower()
    return min([usual, *(seconds for pattern, seconds in _IDLE_SECONDS.items() if re.search(pattern, name))])
