"""Rules on links that lead elsewhere than they show, or to suspicious places."""

from collections.abc import Iterator

from tasks.mail.spam.domains import Domain, examine, resembles
from tasks.mail.spam.evidence import Evidence
from tasks.mail.spam.links import Link
from tasks.mail.spam.verdict import Finding


def check(evidence: Evidence) -> Iterator[Finding]:
    """Rules on the links of a message."""
    own, sender = evidence.own_domain.site, evidence.sender_domain.site
    for link in evidence.links:
        target = examine(link.host)
        if target.site in (own, sender) and link.shown is None and not link.has_login:
            continue
        yield from _check_address(link, target)
        yield from _check_name(link, target, own)
        if link.shown:
            yield from _check_shown(link.shown, target, sender)


def _check_address(link: Link, target: Domain) -> Iterator[Finding]:
    if link.has_login:
        yield Finding("link_with_login", link.host)
    if target.is_ip:
        yield Finding("link_to_ip", link.host)
    if target.is_shortener:
        yield Finding("link_shortener", target.site)
    if target.is_odd:
        yield Finding("link_odd_domain", target.site)


def _check_name(link: Link, target: Domain, own: str) -> Iterator[Finding]:
    if target.imitates or resembles(target.site, own):
        yield Finding("link_to_lookalike", f"{target.site} looks like {target.imitates or own}")
    elif target.mentions:
        yield Finding("link_with_brand", f"{link.host} names {target.mentions}")
    if target.is_mixed_script:
        yield Finding("link_mixed_script", target.site)
    elif target.is_international:
        yield Finding("link_punycode", target.site)


def _check_shown(host: str, target: Domain, sender: str) -> Iterator[Finding]:
    shown = examine(host)
    # Links to the sender's own site are left out: newsletters count clicks that way.
    if shown.site and shown.site not in (target.site, sender) and target.site != sender:
        detail = f"shows {shown.site}, leads to {target.site}"
        yield Finding("link_shows_other_site", detail)
        if shown.brand and shown.brand != target.brand:
            yield Finding("link_shows_brand", detail)
