"""Which provider a mail server is of."""

import pytest

from tasks.mail.providers import PROVIDERS, idle_seconds_of, provider_of


@pytest.mark.parametrize(
    ("hostname", "provider"),
    [
        ("imap.gmail.com", "google"),
        ("IMAP.GoogleMail.com", "google"),
        ("outlook.office365.com", "microsoft"),
        ("imap.mail.yahoo.co.jp", "yahoo"),
        ("imap.mail.me.com", "apple"),
        ("imap.gmx.net", "united_internet"),
        ("imap.web.de", "united_internet"),
        ("gmail.com.example.org", "other"),
        ("notgmail.com", "other"),
        ("", "other"),
    ],
)
def test_a_server_is_known_by_the_end_of_its_name(hostname: str, provider: str) -> None:
    assert provider_of(hostname) == provider
    assert provider in PROVIDERS


@pytest.mark.parametrize(
    ("hostname", "seconds"),
    [
        ("imap.mail.yahoo.com", 180),
        ("IMAP.aol.com", 180),
        ("imap.163.com", 50),
        ("imap.rambler.ru", 50),
        ("x.de", 1740),
    ],
)
def test_some_providers_end_silent_connections_early(hostname: str, seconds: int) -> None:
    assert idle_seconds_of(hostname, 1740) == seconds
    assert idle_seconds_of(hostname, 20) == 20
