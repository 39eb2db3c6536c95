"""Rules on text that is hidden from people, and on words that are cut so that filters miss them."""

import re
from collections.abc import Iterator
from typing import Final

from tasks.mail.spam.evidence import Evidence
from tasks.mail.spam.verdict import Finding

# Newsletters hide a preview line of up to this many characters, and pad it.
_MAX_PREVIEW_LENGTH: Final = 300
_MIN_CUTS: Final = 3
_MAX_LOOKED_AT: Final = 100
_LITTLE_TEXT: Final = 60
_MAX_HIDDEN_LENGTH: Final = 20_000

_TAGS: Final = re.compile(r"<[^>]*>")
_HIDDEN_ELEMENT: Final = re.compile(rb"<(\w+)[^<>]*\Z")
_LETTER: Final = re.compile(r"[^\W\d_]")


def check(evidence: Evidence) -> Iterator[Finding]:
    """Rules on how the bodies are written."""
    scan = evidence.scan
    if scan.hides and (hidden := _hidden_letters(scan.data, scan.hides)) > _MAX_PREVIEW_LENGTH:
        yield Finding("hidden_text", f"{hidden} letters")
    if len(scan.cuts) >= _MIN_CUTS and (cuts := _cuts_within_words(scan.data, scan.cuts)) >= _MIN_CUTS:
        yield Finding("split_words", f"{cuts} times")
    html = evidence.message.html_body
    if html and "<img" in html and evidence.links and _is_only_pictures(html, evidence.message.text_body):
        yield Finding("only_pictures", "")


def _hidden_letters(data: bytes, marks: list[int]) -> int:
    """How many letters stand in elements whose style hides them."""
    total = covered = 0
    for mark in marks[:_MAX_LOOKED_AT]:
        if mark < covered:
            continue
        opened = _HIDDEN_ELEMENT.search(data, max(0, mark - 500), mark)
        start = data.find(b">", mark) + 1
        if opened is None or start == 0:
            continue
        end = data.find(b"</" + opened[1], start, start + _MAX_HIDDEN_LENGTH)
        covered = end if end >= 0 else start + _MAX_HIDDEN_LENGTH
        text = _TAGS.sub("", data[start:covered].decode("utf-8", "ignore"))
        total += len(_LETTER.findall(text))
    return total


def _cuts_within_words(data: bytes, cuts: list[tuple[int, int]]) -> int:
    """How many of the cuts have a Latin letter on both sides.

    Other writing systems need such characters, and words of many syllables have soft hyphens.
    """
    soft_hyphen = "\u00ad".encode()
    return sum(
        data[start - 1 : start].isalpha() and data[end : end + 1].isalpha() and data[start:end] != soft_hyphen
        for start, end in cuts[:_MAX_LOOKED_AT]
    )


def _is_only_pictures(html: str, text: str | None) -> bool:
    if text and len(text.strip()) > 4 * _LITTLE_TEXT:
        return False
    if len(html) > _MAX_HIDDEN_LENGTH:
        return False
    return len(_LETTER.findall(_TAGS.sub("", html))) < _LITTLE_TEXT
