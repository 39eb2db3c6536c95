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
