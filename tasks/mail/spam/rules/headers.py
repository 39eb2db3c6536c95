"""What is missing in the header, and what shouts in the subject."""

import re
from collections.abc import Iterator
from typing import Final

from tasks.mail.spam.evidence import Evidence
from tasks.mail.spam.lookalikes import mixes_scripts
from tasks.mail.spam.verdict import Finding

_EXCLAIMS: Final = re.compile(r"!!|\?\?\?|\$\$|€€|£££")
_ANSWERS: Final = re.compile(r"(?:re|aw|fwd?|wg|sv|tr)\s?:", re.IGNORECASE)
_MIN_LETTERS: Final = 10
_SHARE_OF_CAPITALS: Final = 0.8


def check(evidence: Evidence) -> Iterator[Finding]:
    """Rules on header fields other than From."""
    message, headers = evidence.message, evidence.headers
    if message.date is None:
        yield Finding("no_date", "")
    if message.message_id is None:
        yield Finding("no_message_id", "")
    if not any(address.address for address in (*message.to, *message.cc)):
        yield Finding("no_recipients", "")
    is_answer = "in-reply-to" in headers or "references" in headers
    if is_answer:
        yield Finding("answer", "")
    elif _ANSWERS.match(message.subject):
        yield Finding("false_reply", message.subject)
    if "list-id" in headers and "list-post" in headers:
        yield Finding("mailing_list", evidence.first("list-id"))
    flag, status = evidence.first("x-spam-flag"), evidence.first("x-spam-status")
    if flag[:3].lower() == "yes" or status[:3].lower() == "yes":
        yield Finding("called_spam_before", status or flag)
    yield from _check_subject(message.subject)


def _check_subject(subject: str) -> Iterator[Finding]:
    if subject.isupper() or _mostly_capitals(subject):
        letters = sum(letter.isalpha() for letter in subject)
        if letters >= _MIN_LETTERS:
            yield Finding("subject_shouts", subject)
    if _EXCLAIMS.search(subject):
        yield Finding("subject_exclaims", subject)
    if mixes_scripts(subject):
        yield Finding("subject_homograph", subject)


def _mostly_capitals(subject: str) -> bool:
    # Most subjects begin with one capital and go on in small letters.
    if subject[1:2].islower() or subject[2:3].islower():
        return False
    letters = [letter for letter in subject if letter.isalpha()]
    return bool(letters) and sum(letter.isupper() for letter in letters) >= _SHARE_OF_CAPITALS * len(letters)
