"""The spam check on real PostgreSQL and Dovecot: at sync, again later, and beside what the user says."""

import pytest

from tasks.celery_app import check_spam
from tasks.engine import parsing, spam
from tasks.errors import NotFoundError
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, USER, sync
from tests.support.mailbox import Mailbox
from tests.support.spam import letter, with_file
from tests.support.stored import rows

PHISHING = letter(
    '<p>Verify your account within 24 hours.</p><p><a href="https://paypa1.com/x">www.paypal.com</a></p>',
    "html",
    From="PayPal <service@example.org>",
    Subject="Dringend: Ihr Kontо",
    Authentication_Results="mx.brightwater.example; dmarc=fail",
)
MACROS = with_file(
    "old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 900_000 + "_VBA_PROJECT".encode("utf-16-le")
)
HAM = letter("See you on Friday.")


@pytest.fixture
def trusting(environment, mailbox: Mailbox) -> None:
    environment(SPAM_TRUSTED_AUTHSERV_IDS=f"{mailbox.host}=mx.brightwater.example")


def stored() -> dict[str, tuple[object, ...]]:
    """Score, indicators and id of each message by its subject."""
    found = rows("SELECT subject, spam_score, spam_indicators, id FROM email_message")
    return {str(subject): tuple(rest) for subject, *rest in found}


def checked(message_id: object) -> dict[str, object]:
    return check_spam.apply(args=(message_id, TENANT, USER)).get()


def test_new_messages_are_scored_by_the_sync(account: Account, mailbox: Mailbox, trusting: None) -> None:
    mailbox.append([PHISHING, HAM])
    sync(account)
    found = stored()
    score, indicators, _ = found["Dringend: Ihr Kontо"]
    assert score == 1.0
    assert {"rule": "dmarc_fail", "weight": 0.4, "detail": "example.org"} in indicators
    assert [indicator["weight"] for indicator in indicators] == sorted(
        (indicator["weight"] for indicator in indicators), reverse=True
    )
    assert found["Minutes of Tuesday"][:2] == (0.0, [])


@pytest.mark.parametrize("raw", [PHISHING, MACROS, HAM], ids=["phishing", "macros", "ham"])
def test_a_stored_message_gets_the_same_verdict_again(
    account: Account, mailbox: Mailbox, trusting: None, raw: bytes
) -> None:
    mailbox.append([raw])
    sync(account)
    before = stored()
    (message,) = before.values()

    result = checked(message[2])

    assert (result["spam_score"], result["indicators"]) == message[:2]
    assert result["is_spam"] is (message[0] >= 0.5)
    assert (result["status"], result["decided_by"]) == ("success", "score")
    assert stored() == before


@pytest.mark.parametrize(
    ("flags", "folder", "is_spam"), [("$Junk", "INBOX", True), ("$NotJunk", "INBOX", False), ("", "Junk", True)]
)
@pytest.mark.parametrize("raw", [PHISHING, HAM], ids=["phishing", "ham"])
def test_the_users_word_comes_first_and_stays(
    account: Account, mailbox: Mailbox, raw: bytes, flags: str, folder: str, is_spam: bool
) -> None:
    if folder != "INBOX":
        mailbox.create(folder)
    mailbox.append([raw], folder, flags)
    sync(account)
    (message,) = stored().values()

    result = checked(message[2])

    assert (result["is_spam"], result["decided_by"]) == (is_spam, "user")
    assert result["spam_score"] == message[0]
    assert rows("SELECT is_spam, is_not_spam FROM email_message") == [(is_spam, flags == "$NotJunk")]


def test_the_users_word_may_change(account: Account, mailbox: Mailbox) -> None:
    mailbox.append([HAM])
    sync(account)
    before = stored()
    for flags, how, expected in (("$Junk", "+FLAGS", (True, False)), ("$NotJunk", "FLAGS", (False, True))):
        mailbox.flag("1", flags, how=how)
        sync(account)
        assert rows("SELECT is_spam, is_not_spam FROM email_message") == [expected]
    assert stored() == before


def test_own_mail_is_not_checked(account: Account, mailbox: Mailbox) -> None:
    mailbox.create("Sent")
    mailbox.append([PHISHING], "Sent")
    sync(account)
    assert [found[:2] for found in stored().values()] == [(None, [])]


def test_nothing_is_checked_where_it_is_off(account: Account, mailbox: Mailbox, environment) -> None:
    environment(SPAM_CHECK_ENABLED="false")
    mailbox.append([PHISHING])
    sync(account)
    (message,) = stored().values()
    assert message[:2] == (None, [])
    assert checked(message[2])["is_spam"], "asked for by a caller, it is"


def test_a_defect_of_a_rule_costs_no_message(account: Account, mailbox: Mailbox, monkeypatch) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(parsing, "judge", defect)
    mailbox.append([PHISHING])
    sync(account)
    assert [found[:2] for found in stored().values()] == [(None, [])]


@pytest.mark.parametrize(("tenant", "user"), [("tenant-2", USER), (TENANT, "user-2")])
def test_somebody_elses_message_is_not_found_and_not_touched(
    account: Account, mailbox: Mailbox, tenant: str, user: str
) -> None:
    mailbox.append([PHISHING])
    sync(account)
    (message,) = stored().values()
    before = stored()
    with pytest.raises(NotFoundError) as somebodys:
        spam.check_message(tenant, user, str(message[2]))
    with pytest.raises(NotFoundError) as nobodys:
        spam.check_message(tenant, user, "no-such-message")
    assert str(somebodys.value) == str(nobodys.value)
    assert stored() == before
