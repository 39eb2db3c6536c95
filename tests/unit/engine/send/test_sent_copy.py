"""Whose SMTP servers file a copy of what is sent, so that it is not for us to do."""

import pytest

from tasks.engine.send.sent_copy import wants_copy
from tasks.storage.accounts.rows import Account


def account(smtp_hostname: str | None, *, protocol: str = "imap", sent_copies: str = "auto") -> Account:
    nothing = Account._make([None] * len(Account._fields))
    return nothing._replace(protocol=protocol, smtp_hostname=smtp_hostname, sent_copies=sent_copies)


@pytest.mark.parametrize(
    "host",
    ["smtp.gmail.com", "SMTP.Gmail.com", "smtp.googlemail.com", "smtp.office365.com", "smtp-mail.outlook.com"],
)
def test_where_people_submit_mail_the_provider_files_the_copy(host: str) -> None:
    assert not wants_copy(account(host))
    assert wants_copy(account(host, sent_copies="append"))


@pytest.mark.parametrize(
    "host",
    [
        "smtp-relay.gmail.com",  # a relay: it knows no mailbox
        "aspmx.l.google.com",
        "example-com.mail.protection.outlook.com",
        "smtp.gmail.com.example.org",
        "mail.example.org",
    ],
)
def test_relays_and_other_servers_file_none(host: str) -> None:
    assert wants_copy(account(host))
    assert not wants_copy(account(host, sent_copies="none"))


@pytest.mark.parametrize("sent_copies", ["auto", "append", "none"])
def test_a_pop3_account_has_no_folder_for_copies(sent_copies: str) -> None:
    assert not wants_copy(account("mail.example.org", protocol="pop3", sent_copies=sent_copies))
