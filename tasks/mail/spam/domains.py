"""What a domain name tells: which brand it belongs to, and which brand it only imitates.

Each name is examined once and remembered: mail comes from, and links to, the same few again and again.
"""

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from tasks.mail.spam.brands import BY_SKELETON, NAMES, PLAIN_WORDS, owner_of
from tasks.mail.spam.lookalikes import is_typo_of, mixes_scripts, skeleton

# Second-level names under which registries sell domains (co.uk, com.br, ...). A short list, which is enough here.
_SHARED_SECOND_LEVEL = frozenset({"ac", "co", "com", "edu", "gob", "gov", "gv", "ne", "net", "or", "org"})
_GENERIC = frozenset({"com", "net", "org"})
_ODD = frozenset({
    "bid", "buzz", "cam", "cfd", "click", "country", "cyou", "date", "download", "faith", "fit", "gdn", "gq", "icu",
    "kim", "link", "loan", "men", "monster", "mov", "party", "quest", "racing", "rest", "review", "sbs", "science",
    "stream", "surf", "tk", "top", "trade", "win", "work", "xin", "xyz", "zip",
})  # fmt: skip
_SHORTENERS = frozenset({
    "adf.ly", "bit.ly", "bl.ink", "buff.ly", "cutt.ly", "goo.gl", "is.gd", "lnkd.in", "ow.ly", "rb.gy", "rebrand.ly",
    "s.id", "shorturl.at", "t.co", "t.ly", "t2m.io", "tiny.cc", "tinyurl.com", "v.gd",
})  # fmt: skip

_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
_MAX_NAME_LENGTH = 253


class Domain(NamedTuple):
    """What is known of a host name. `site` is the registered domain, in Unicode.

    `brand` owns the domain, `imitates` is a brand that the
    domain looks like, `mentions` a brand whose name it contains.
    """

    site: str
    brand: str | None = None
    imitates: str | None = None
    mentions: str | None = None
    is_ip: bool = False
    is_international: bool = False
    is_mixed_script: bool = False
    is_shortener: bool = False
    is_odd: bool = False


NOWHERE = Domain("")


@lru_cache(maxsize=16384)
def examine(host: str) -> Domain:
    """A host name in lower case, as it stands in an address or a URL. Never raises."""
    host = host.strip(".")
    if not host or len(host) > _MAX_NAME_LENGTH:
        return NOWHERE
    if _is_ip(host):
        return Domain(host, is_ip=True)
    labels = [_in_unicode(label) for label in host.split(".")]
    size = _registered_labels(labels)
    site, label, above = ".".join(labels[-size:]), labels[-size], labels[-size + 1 :]
    brand = owner_of(site) or (label if label in NAMES and _is_ordinary(above) else None)
    imitates = mentions = None
    if brand is None:
        imitates = _imitated(label)
        mentions = None if imitates else _mentioned([*labels[:-size], *label.split("-")])
    return Domain(
        site=site,
        brand=brand,
        imitates=imitates,
        mentions=mentions,
        is_international=not site.isascii(),
        is_mixed_script=any(mixes_scripts(part) for part in labels),
        is_shortener=site in _SHORTENERS,
        is_odd=labels[-1] in _ODD,
    )


@lru_cache(maxsize=4096)
def resembles(site: str, own: str) -> bool:
    """Whether `site` is another domain that people could take for `own`."""
    if not site or not own or site == own:
        return False
    ours, theirs = own.partition("."), site.partition(".")
    if theirs[0] == ours[0]:
        return False  # example.net and example.org often have the same owner
    return skeleton(theirs[0]) == skeleton(ours[0]) or is_typo_of(theirs[0], ours[0])


def _is_ip(host: str) -> bool:
    """Whether the host is an IP address, also in forms that browsers accept: one number, or hexadecimal numbers."""
    if all(_NUMBER.fullmatch(part) for part in host.split(".")):
        return True
    try:
        return ip_address(host.strip("[]")) is not None
    except ValueError:
        return False


def _in_unicode(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        return label[4:].encode("ascii").decode("punycode")
    except (UnicodeError, ValueError):
        return label


def _registered_labels(labels: list[str]) -> int:
    if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SHARED_SECOND_LEVEL:
        return 3
    return min(2, len(labels))


def _is_ordinary(above: list[str]) -> bool:
    """Whether a brand's name under these labels is the brand's: .com, .de, .co.uk, but not .xyz."""
    return bool(above) and (above[-1] in _GENERIC or len(above[-1]) == 2) and above[-1] not in _ODD


def _imitated(label: str) -> str | None:
    found = BY_SKELETON.get(skeleton(label))
    if found:
        return found
    return next((name for name in NAMES if is_typo_of(label, name)), None)


def _mentioned(words: list[str]) -> str | None:
    for word in words:
        name = BY_SKELETON.get(skeleton(word))
        if name and name not in PLAIN_WORDS:
            return name
    return None
