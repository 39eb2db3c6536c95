"""What a message says in so many words."""

from collections.abc import Iterator
from typing import Final

from tasks.mail.spam.evidence import Evidence
from tasks.mail.spam.verdict import Finding

_SEVERAL: Final = 3


def check(evidence: Evidence) -> Iterator[Finding]:
    """A finding for each kind of phrases that occurs."""
    for kind, phrases in evidence.scan.phrases.items():
        yield Finding(f"phrases_{kind}", ", ".join(phrases))
        if len(phrases) >= _SEVERAL:
            yield Finding("several_phrases", f"{len(phrases)} {kind}")
