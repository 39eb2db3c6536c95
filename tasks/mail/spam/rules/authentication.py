"""Rules on SPF, DKIM, DMARC and ARC, as the account's own server has checked them (RFC 8601).

Anybody can write an Authentication-Results field into a message. A field counts only if its authserv-id is that of
the account's own server, because such a server removes incoming fields with its own name (RFC 8601 section 5). Any
other field counts neither for the message nor against it.
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
    """Findings from the results of a trusted server; none without such results."""
    results = _trusted_results(evidence)
    if not results:
        return
    outcome: dict[str, str] = {}
    for method, result, _ in results:
        # The topmost field is from the last server. Of several DKIM signatures one valid signature is enough.
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
    """The authserv-id of a field, in lower case (RFC 8601 section 2.2)."""
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
