"""The labelled messages, and how well the rules tell them apart.

`tests/fixtures/spam/{spam,ham}/{tune,held_out}`: weights and phrases may be changed for what `tune` shows; `held_out`
is only ever counted. Which half a message is in was drawn by its name's digest. Besides, messages that come with
Debian packages, none of which was looked at for the rules.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tasks.mail.parse.message import parse
from tasks.mail.spam import judge
from tasks.mail.spam.evidence import Addressee

FIXTURES = Path(__file__).parents[2] / "tests/fixtures/spam"
RECIPIENT = Addressee("bob@brightwater.example", frozenset({"mx.brightwater.example"}))
THRESHOLD = 0.5

# Ham: what mail systems say to people (bounces of many makes), and the example of an ordinary message.
_DEBIAN_HAM = (
    ("/usr/lib/python3/dist-packages/flufl/bounce/tests/data", "*.txt"),
    ("/usr/share/doc/spamassassin/examples", "sample-nonspam.txt"),
)


class Labelled(NamedTuple):
    """A message, and what it is."""

    name: str
    is_spam: bool
    raw: bytes


class Figures(NamedTuple):
    """Counts over a set; `missed` is spam below the threshold, `wrong` is ham at it or above, by name."""

    spam: int
    ham: int
    missed: list[str]
    wrong: list[str]

    @property
    def precision(self) -> float:
        """Of what was called spam, how much is; for sets that have spam."""
        found = self.spam - len(self.missed)
        return found / (found + len(self.wrong)) if found else 0.0

    @property
    def recall(self) -> float:
        """Of the spam, how much was called so; for sets that have spam."""
        return (self.spam - len(self.missed)) / self.spam


def half(name: str) -> list[Labelled]:
    """The messages of `tune` or `held_out`."""
    return [
        Labelled(path.stem, kind == "spam", path.read_bytes())
        for kind in ("spam", "ham")
        for path in sorted(FIXTURES.glob(f"{kind}/{name}/*.eml"))
    ]


def from_debian() -> list[Labelled]:
    """What installed packages bring, each message once; empty where none is installed."""
    return list(_from_debian())


def _from_debian() -> Iterator[Labelled]:
    for folder, pattern in _DEBIAN_HAM:
        for path in sorted(Path(folder).glob(pattern)):
            yield Labelled(path.stem, False, path.read_bytes())


def by_rules(raws: list[bytes]) -> list[float]:
    """The scores that the rules give."""
    return [judge(parse(raw), RECIPIENT).score for raw in raws]


def measure(messages: list[Labelled], scorer: Callable[[list[bytes]], list[float]] = by_rules) -> Figures:
    """How well a scorer does."""
    scores = dict(zip(messages, scorer([message.raw for message in messages]), strict=True))
    return Figures(
        spam=sum(message.is_spam for message in messages),
        ham=sum(not message.is_spam for message in messages),
        missed=[message.name for message, score in scores.items() if message.is_spam and score < THRESHOLD],
        wrong=[message.name for message, score in scores.items() if not message.is_spam and score >= THRESHOLD],
    )
