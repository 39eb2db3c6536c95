"""Rules on whom a message claims to be from, compared with its real address."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from tasks.mail.spam.brands import BY_SKELETON, PLAIN_WORDS, may_come_from
from tasks.mail.spam.domains import Domain, resembles
from tasks.mail.spam.evidence import Evidence, domain_of
from tasks.mail.spam.lookalikes import mixes_scripts, skeleton
from tasks.mail.spam.verdict import Finding

_FREEMAIL: Final = frozenset({
    "126.com", "163.com", "aol.com", "consultant.com", "gmail.com", "gmx.com", "gmx.de", "gmx.net", "hotmail.com",
    "icloud.com", "mail.com", "mail.ru", "outlook.com", "outlook.de", "proton.me", "protonmail.com", "qq.com",
    "tutanota.com", "web.de", "yahoo.co.uk", "yahoo.com", "yandex.com", "yandex.ru", "zohomail.com",
})  # fmt: skip
_ADDRESS: Final = re.compile(r"[^\s<>()\"',;:@]+@((?:[\w-]+\.)+[\w-]{2,})")
_WORD: Final = re.compile(r"[^\W_]+")
_MAX_NAME_LENGTH: Final = 200


def check(evidence: Evidence) -> Iterator[Finding]:
    """Rules on From and Reply-To."""
    name, address = evidence.sender
    domain = evidence.sender_domain
    if not domain.site:
        yield Finding("no_sender", name)
    if name:
        yield from _check_name(name[:_MAX_NAME_LENGTH], evidence)
    yield from _check_domain(domain, evidence.own_domain)
    if evidence.message.reply_to:
        answers_to = domain_of(evidence.message.reply_to[0].address).site
        if answers_to in _FREEMAIL and answers_to != domain.site:
            yield Finding("reply_to_freemail", evidence.message.reply_to[0].address)
    if address and address.lower() == evidence.recipient.address.lower():
        yield Finding("sent_as_recipient", address)


def _check_name(name: str, evidence: Evidence) -> Iterator[Finding]:
    domain = evidence.sender_domain
    if "@" in name and (match := _ADDRESS.search(name)):
        shown = domain_of(f"@{match[1]}").site
        # A mailing list that sends for its members shows their addresses in the name: "ada@example.org via Discuss".
        via_list = " via " in name and "list-id" in evidence.headers
        if shown != domain.site and not via_list:
            yield Finding("name_shows_other_address", f"{match[0]}, from {domain.site}")
    claimed, is_mixed = _claims(name)
    if is_mixed:
        yield Finding("name_homograph", name)
    if claimed and claimed != domain.brand and not may_come_from(claimed, domain.site):
        yield Finding("name_claims_brand", f"{name}, from {domain.site}")


@lru_cache(maxsize=4096)
def _claims(name: str) -> tuple[str | None, bool]:
    """The brand that a display name names, and whether it mixes alphabets."""
    words = (BY_SKELETON.get(skeleton(word)) for word in _WORD.findall(name))
    brand = next((word for word in words if word and word not in PLAIN_WORDS), None)
    return brand, mixes_scripts(name)


def _check_domain(domain: Domain, own: Domain) -> Iterator[Finding]:
    if domain.imitates:
        yield Finding("lookalike_domain", f"{domain.site} looks like {domain.imitates}")
    elif resembles(domain.site, own.site):
        yield Finding("lookalike_of_own_domain", f"{domain.site} looks like {own.site}")
    elif domain.mentions:
        yield Finding("brand_in_domain", f"{domain.site} names {domain.mentions}")
    if domain.is_mixed_script:
        yield Finding("mixed_script_domain", domain.site)
