"""Words that look like other words: letters of other alphabets, digits for letters, one wrong letter."""

import re
import unicodedata
from typing import Final

# Letters and digits, and the Latin letters that they are
# mistaken for: those of Unicode TS 39 that occur in forged mail.
_LOOKS_LIKE: Final = str.maketrans(
    {
        character: letter
        for letter, characters in {
            "a": "аαɑ4@", "b": "ьβ8", "c": "сϲ", "d": "ԁ", "e": "еε3", "f": "ғ", "g": "ɡ", "h": "һ", "i": "іιı1!|",
            "j": "ј", "k": "кκ", "l": "ӏ", "m": "м", "n": "пη", "o": "оο0", "p": "рρ", "q": "ԛ", "r": "г",
            "s": "ѕ5$", "t": "тτ7", "u": "υ", "v": "ѵν", "w": "ԝω", "x": "хχ", "y": "ууγ",
        }.items()
        for character in characters
    }
)  # fmt: skip
# Latin letters and pairs that look alike; they are replaced on both sides of a comparison.
_PAIRS: Final = (("rn", "m"), ("vv", "w"), ("i", "l"))
# Alphabets that mean a forgery if they are mixed with Latin letters in one word; Japanese next to Latin is ordinary.
_CONFUSABLE_SCRIPTS: Final = frozenset({"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"})
_OTHER_ALPHABET: Final = re.compile(
    "[\u0370-\u03ff\u0400-\u058f\u13a0-\u13ff\u1c80-\u1c8f\u1f00-\u1fff\ua640-\ua69f\uab70-\uabbf]"
)
_WORD: Final = re.compile(r"\w+")
# One wrong letter counts as an imitation only in names that are at least this long.
_MIN_LENGTH_FOR_TYPOS: Final = 6


def skeleton(word: str) -> str:
    """A word with letters that look alike replaced by one of them, for comparison."""
    plain = unicodedata.normalize("NFKD", word.casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter)).translate(_LOOKS_LIKE)
    for pair, letter in _PAIRS:
        plain = plain.replace(pair, letter)
    return plain


def mixes_scripts(text: str) -> bool:
    """Whether a word of `text` has Latin letters and letters of an alphabet that can be mistaken for them."""
    if text.isascii() or not _OTHER_ALPHABET.search(text):
        return False
    for word in _WORD.findall(text):
        scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in word if letter.isalpha()}
        if "LATIN" in scripts and scripts & _CONFUSABLE_SCRIPTS:
            return True
    return False


def is_typo_of(word: str, name: str) -> bool:
    """Whether one letter too many, too few or wrong, or two that changed places, make `name` of `word`."""
    if len(name) < _MIN_LENGTH_FOR_TYPOS or abs(len(word) - len(name)) > 1 or word == name or word[0] != name[0]:
        return False
    start = 0
    while start < min(len(word), len(name)) and word[start] == name[start]:
        start += 1
    rest, wanted = word[start:], name[start:]
    swapped = wanted[1:2] + wanted[:1] + wanted[2:]
    return rest[1:] == wanted or rest == wanted[1:] or rest[1:] == wanted[1:] or rest == swapped
