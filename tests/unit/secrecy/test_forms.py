"""A secret is found in whatever form it comes back, and nowhere else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.secrecy.forms import Known
from tests.support.secret_forms import FORMS

SECRETS = {
    "four characters": "k7Qz",
    "a phrase": "s3cret wörd",
    "an app password": "abcd efgh ijkl mnop",
    "signs": "p@:/#%$ \"'\\<&>+=x",
    "a token": "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==",
    "a long token": "tok." + "aB3_-" * 60,
    "cyrillic": "пароль12",
    "emoji": "correct 🐎 battery",
}
INNOCENT = [
    *(Path(__file__).parents[2] / "fixtures/login_refusals.tsv").read_text().splitlines(),
    "535 5.7.8 Username and Password not accepted, s3cr: https://support.example.com/mail/?p=BadCredentials",
    "NO [AUTHENTICATIONFAILED] k7Qzx and xk7Qz are other words, abcd too",
    "a1 NO internal error, id 0190b2c7-5f3e-7aaa-8f00-5a0f8d3a1c11, digest 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
    "-ERR 密码错误 %7B%22status%22%3A400%7D &amp; eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_each_form_of_a_secret_tells_it(secret: str, form: Callable[[str], str]) -> None:
    repeated = f"535 5.7.8 rejected: AUTH {form(secret)} sorry"
    assert Known((secret,)).are_told_by(repeated)
    if len(secret) >= 8:  # a shorter one is told by its word alone
        assert Known((secret,)).are_told_by(" ".join(repeated.splitlines())), "lines that were put into one"


def test_part_of_a_long_secret_tells_it() -> None:
    known = Known((SECRETS["a token"],))
    assert known.are_told_by(SECRETS["a token"][10:30])
    assert known.are_told_by(FORMS["base64"](SECRETS["a token"])[7:40] + "...")
    assert not known.are_told_by(SECRETS["a token"][:8])


def test_words_without_a_secret_tell_none() -> None:
    known = Known(tuple(SECRETS.values()))
    assert [words for words in INNOCENT if known.are_told_by(words)] == []


def test_a_short_secret_is_told_by_its_word_alone() -> None:
    known = Known(("test",))
    assert known.are_told_by('NO "LOGIN ada Test" is wrong')
    assert not known.are_told_by("NO the latest protest was contested")
    assert not known.are_told_by("a test of ours", short=False)


def test_what_is_public_may_be_said_though_the_secret_is_a_part_of_it() -> None:
    known = Known(("mycompany", "ada@example.org"), public=("mail.mycompany.example", "ada@example.org"))
    assert not known.are_told_by("mail.mycompany.example does not answer")
    assert known.are_told_by("LOGIN ada mycompany")
    assert known.are_told_by("wrong: ada@example.org"), "the whole of it is a secret as well"


def test_nothing_is_told_where_nothing_is_known() -> None:
    assert not Known().are_told_by("anything")
    assert not Known(("", " ")).are_told_by("any thing")


def test_what_is_known_is_not_shown() -> None:
    assert "k7Qz" not in repr(Known(("k7Qz",), public=("host",)))


@pytest.mark.parametrize(
    "text", ["%" * 4000, "\\x" * 2000, "&#1" * 1000, "=" * 4000, "QUJD" * 1000, "\\ud800", "=?", "\\U00110000"]
)
def test_any_text_is_read(text: str) -> None:
    assert not Known(("sample secret",)).are_told_by(text)
