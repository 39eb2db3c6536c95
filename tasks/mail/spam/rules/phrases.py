"""Rules on the phrases that a message contains."""

from collections.abc import Iterator
from typing import Final

from tasks.mail.spam.evidence import Evidence
from tasks.mail.spam.verdict import Finding

_MANY: Final = 4


def check(evidence: Evidence) -> Iterator[Finding]:
    """A finding for each kind of phrases that occurs."""
    for kind, phrases in evidence.scan.phrases.items():
        yield Finding(f"phrases_{kind}", ", ".join(phrases))
        if len(phrases) > 1:
            yield Finding("two_phrases", f"{len(phrases)} {kind}")
        if len(phrases) >= _MANY:
            yield Finding("many_phrases", f"{len(phrases)} {kind}")
