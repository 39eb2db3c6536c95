"""SPF, DKIM, DMARC and ARC as a server that can be trusted with it has checked them (RFC 8601).

Anybody can write an Authentication-Results field into a message. Only one whose authserv-id is the account's own
server's counts, since such a server removes those that claim its name (RFC 8601 section 5); any other counts for
nothing, neither for the message nor against it.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from tasks.mail.spam.evidence import Evidence
from tasks.mail.spam.verdict import Finding

_COMMENT = re.compile(r"\((?:[^()\\]|\\.)*\)")
_RESULT = re.compile(r"\s*([a-z][a-z0-9-]*)(?:/\d+)?\s*=\s*([a-z]+)(.*)", re.IGNORECASE | re.DOTALL)
_MAX_FIELD_LENGTH = 4000
_DEEPEST_COMMENT = 4

Results = tuple[tuple[str, str, str], ...]


def check(evidence: Evidence) -> Iterator[Finding]:
    """Rules on the results of a trusted server; without one, none."""
    results = _trusted_results(evidence)
    if not results:
        return
    outcome: dict[str, str] = {}
    for method, result, _ in results:
        # The topmost field is the last server's. One valid signature of several is enough.
        if method not in outcome or (method == "dkim" and result == "pass"):
            outcome[method] = result
    dmarc = outcome.get("dmarc")
    if dmarc == "pass":
        yield Finding("dmarc_pass", evidence.sender_domain.site)
    elif dmarc == "fail":
        yield Finding("dmarc_fail", evidence.sender_domain.site)
        if outcome.get("arc") == "pass":
            yield Finding("arc_pass", "")
    else:
        yield from _without_dmarc(outcome)


def _without_dmarc(outcome: dict[str, str]) -> Iterator[Finding]:
    spf, dkim = outcome.get("spf"), outcome.get("dkim")
    if dkim == "pass":
        return
    if spf in ("fail", "hardfail"):
        yield Finding("spf_fail", "")
    elif spf == "softfail":
        yield Finding("spf_softfail", "")
    if dkim in ("fail", "permerror"):
        yield Finding("dkim_fail", "")


def _trusted_results(evidence: Evidence) -> Results:
    trusted = evidence.recipient.authserv_ids
    if not trusted:
        return ()
    fields = evidence.headers.get("authentication-results", ())
    return tuple(
        result for field in fields if authserv_id(field) in trusted for result in _results(field[:_MAX_FIELD_LENGTH])
    )


def authserv_id(field: str) -> str:
    """Who says so, in lower case (RFC 8601 section 2.2)."""
    said = _COMMENT.sub("", field.partition(";")[0]).split()
    return said[0].lower() if said else ""


@lru_cache(maxsize=1024)
def _results(field: str) -> Results:
    for _ in range(_DEEPEST_COMMENT):
        if "(" not in field:
            break
        field = _COMMENT.sub(" ", field)
    found = (_RESULT.match(part) for part in field.split(";")[1:])
    return tuple((match[1].lower(), match[2].lower(), match[3]) for match in found if match)
