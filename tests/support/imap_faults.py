"""What the scripted IMAP server does instead of answering properly. Each is an action for `ImapServer.on`."""

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Answer:
    """What is about to be sent, and what follows: go on, drop or hang."""

    tag: bytes
    data: bytes
    then: str = "go on"
    delay: float = 0.0


Action = Callable[[Answer], None]


@dataclass
class Rule:
    """When to misbehave: commands that match, after the first `after`, `times` times (None: always)."""

    pattern: re.Pattern[bytes]
    action: Action
    times: int | None
    uid: int | None
    after: int
    hits: int = 0

    def applies(self, command: bytes, asked_for: list[int]) -> bool:
        """Whether to misbehave now; counts it."""
        if not self.pattern.match(command) or (self.uid is not None and self.uid not in asked_for):
            return False
        if self.after:
            self.after -= 1
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


def from_message(uid: int, action: Action) -> Action:
    """Answer properly up to this message, and misbehave from there on. To be used with the same `uid` in `on`."""

    def act(answer: Answer) -> None:
        at = re.search(rb"\* \d+ FETCH \((?:[^{}\r\n]* )?UID %d[ )]" % uid, answer.data)
        assert at is not None, f"the answer does not hold message {uid}"
        rest = Answer(answer.tag, answer.data[at.start() :])
        action(rest)
        answer.data, answer.then = answer.data[: at.start()] + rest.data, rest.then

    return act


def hang(answer: Answer) -> None:
    """Say nothing more."""
    answer.data, answer.then = b"", "hang"


def drop(answer: Answer) -> None:
    """Close the connection without a word."""
    answer.data, answer.then = b"", "drop"


def cut(at: int, then: str = "drop") -> Action:
    """Send so many bytes of the answer, then drop or hang."""

    def act(answer: Answer) -> None:
        answer.data, answer.then = answer.data[:at], then

    return act


def refuse(words: str) -> Action:
    """Answer NO or BAD, with a response code if wanted."""

    def act(answer: Answer) -> None:
        answer.data = answer.tag + f" {words}\r\n".encode()

    return act


def bye(words: str = "shutting down") -> Action:
    """Say BYE and close."""

    def act(answer: Answer) -> None:
        answer.data, answer.then = f"* BYE {words}\r\n".encode(), "drop"

    return act


def before(lines: bytes) -> Action:
    """Send something unasked, then the proper answer."""

    def act(answer: Answer) -> None:
        answer.data = lines + answer.data

    return act


def literal_length(change: Callable[[int], int]) -> Action:
    """Announce another length for each literal than it has."""

    def act(answer: Answer) -> None:
        answer.data = re.sub(rb"\{(\d+)\}\r\n", lambda m: b"{%d}\r\n" % max(change(int(m[1])), 0), answer.data)

    return act


def rewrite(pattern: bytes, replacement: bytes) -> Action:
    """Change the answer by a regular expression."""

    def act(answer: Answer) -> None:
        answer.data = re.sub(pattern, replacement, answer.data)

    return act


def slowly(seconds: float) -> Action:
    """Answer properly, after a while."""

    def act(answer: Answer) -> None:
        answer.delay = seconds

    return act
