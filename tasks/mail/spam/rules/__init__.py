"""The rules by what they look at. Each is a function from evidence to findings; weights are in ../weights.py."""

from typing import Final

from tasks.mail.spam.rules import attachments, authentication, headers, html_tricks, links, phrases, sender

CHECKS: Final = (
    authentication.check,
    sender.check,
    headers.check,
    links.check,
    html_tricks.check,
    attachments.check,
    phrases.check,
)
