"""What real servers say to a login that they do not take, and what it means.

The table is tests/fixtures/login_refusals.tsv: meaning, server, words (without tag, NO, BAD and -ERR; SMTP with its
code), and where they were seen or written down.
"""

import csv
from pathlib import Path

import pytest

from tasks.mail.refusal import Meaning, meaning_of, means_busy, readable

with (Path(__file__).parents[2] / "fixtures" / "login_refusals.tsv").open(encoding="utf-8", newline="") as file:
    REFUSALS = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))

# Who must be in it.
SERVERS = (
    *("Gmail", "Microsoft", "Yahoo", "iCloud", "Zoho", "Yandex", "GMX", "web.de", "mail.ru", "163", "QQ", "Fastmail"),
    *(
        "Proton",
        "Dovecot",
        "Cyrus",
        "Courier",
        "Exchange",
        "Zimbra",
        "hMailServer",
        "Postfix",
        "Exim",
        "MDaemon",
        "mailutils",
    ),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal['server']}: {refusal['words'][:60]}")
def test_what_servers_say(refusal: dict[str, str]) -> None:
    assert meaning_of(refusal["words"]) is Meaning[refusal["meaning"].upper()]


def test_the_table_is_large_and_says_where_each_text_is_from() -> None:
    assert len({refusal["words"] for refusal in REFUSALS}) >= 60
    assert all(refusal["source"] for refusal in REFUSALS)
    for server in SERVERS:
        assert any(refusal["server"].startswith(server) for refusal in REFUSALS), server


# Said beside a code for a wrong password, of all protocols: the words count more.
BESIDE_A_CODE = [
    *("Too many simultaneous connections", "Login rate limit exceeded", "Account is temporarily locked"),
    *("try again later", "Connection lost to authentication server", "System error", "server busy"),
    *(
        "Temporary authentication failure",
        "service unavailable",
        "timed out",
        "用户登录过于频繁",
        "系统繁忙，请稍后再试",
    ),
]


@pytest.mark.parametrize("code", ["[AUTHENTICATIONFAILED]", "[AUTH]", "[EXPIRED]", "535 5.7.8"])
@pytest.mark.parametrize("words", BESIDE_A_CODE)
def test_words_of_load_and_limits_count_more_than_a_code(code: str, words: str) -> None:
    assert means_busy(f"{code} {words}")
    assert not means_busy(f"{code} Wrong password, try again.")


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("请使用授权码登录。详情请看: http://service.mail.qq.com/", Meaning.WRONG_BY_WORDS),
        ("登录太频繁，请稍后再试", Meaning.LIMITED),
        ("系统繁忙", Meaning.BUSY),
    ],
)
@pytest.mark.parametrize("charset", ["gb18030", "utf-8"])
def test_chinese_is_read_in_the_charset_that_the_server_uses(said: str, meaning: Meaning, charset: str) -> None:
    assert readable(said.encode(charset)) == said
    assert meaning_of(said) is meaning


@pytest.mark.parametrize("charset", ["windows-1252", "utf-8"])
@pytest.mark.parametrize("said", ["Échec de l'authentification", "Falsches Paßwort, später", "no reason"])
def test_other_words_are_read_too(said: str, charset: str) -> None:
    assert readable(said.encode(charset)) == said


@pytest.mark.parametrize("words", ["", "no reason given", "NO", "[ALERT] hello", "x" * 100_000, "user " * 20_000])
def test_what_says_nothing_is_unclear_and_quickly(words: str) -> None:
    assert meaning_of(words) is Meaning.UNCLEAR
