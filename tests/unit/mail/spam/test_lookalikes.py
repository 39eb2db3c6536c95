"""Words and domains that look like others."""

import pytest

from tasks.mail.spam.domains import NOWHERE, examine, resembles
from tasks.mail.spam.lookalikes import is_typo_of, mixes_scripts, skeleton


@pytest.mark.parametrize(
    ("word", "like"),
    [("раураl", "paypal"), ("paypa1", "paypal"), ("PΑYPAL", "paypal"), ("pаypаl", "paypal"), ("päypal", "paypal"),
     ("arnazon", "amazon"), ("rnicrosoft", "microsoft"), ("g00gle", "google"), ("vvhatsapp", "whatsapp")],
)  # fmt: skip
def test_look_alikes_have_one_skeleton(word: str, like: str) -> None:
    assert skeleton(word) == skeleton(like)


@pytest.mark.parametrize(("word", "other"), [("modern", "modem2"), ("example", "sample"), ("paypal", "paper")])
def test_different_words_keep_theirs(word: str, other: str) -> None:
    assert skeleton(word) != skeleton(other)


@pytest.mark.parametrize("word", ["paypla", "papal", "paypall", "paypel", "pypal", "paaypal"])
def test_one_wrong_letter_is_a_typo(word: str) -> None:
    assert is_typo_of(word, "paypal")


@pytest.mark.parametrize("word", ["paypal", "xaypal", "payment", "pay", "papla", ""])
def test_more_or_none_is_not(word: str) -> None:
    assert word == "" or not is_typo_of(word, "paypal")


@pytest.mark.parametrize("name", ["ebay", "dhl", "usps"])
def test_short_names_have_no_typos(name: str) -> None:
    assert not is_typo_of(name[:-1] + "x", name)


@pytest.mark.parametrize(
    ("text", "mixed"),
    [("Pаypal", True), ("Αmazon Support", True), ("Привет from Москва", False), ("日本語 and English", False),
     ("Ελλάδα", False), ("café", False), ("СССР2", False)],
)  # fmt: skip
def test_only_alphabets_that_can_be_mistaken_mix(text: str, mixed: bool) -> None:
    assert mixes_scripts(text) is mixed


@pytest.mark.parametrize(
    ("host", "site"),
    [("www.example.org", "example.org"), ("a.b.example.co.uk", "example.co.uk"), ("localhost", "localhost"),
     ("shop.example.com.br", "example.com.br"), ("xn--mnchen-3ya.de", "münchen.de"), ("example.org.", "example.org"),
     ("xn--\ud800.de", "xn--\ud800.de")],
)  # fmt: skip
def test_the_registered_part_of_a_name(host: str, site: str) -> None:
    assert examine(host).site == site


@pytest.mark.parametrize("host", ["192.0.2.1", "3221225985", "0xc0000201", "0xc0.0.2.1", "[2001:db8::1]"])
def test_addresses_in_all_forms_that_browsers_take(host: str) -> None:
    assert examine(host).is_ip


@pytest.mark.parametrize("host", ["", ".", "x" * 300, "..", "a..b"])
def test_what_is_no_name_is_examined_too(host: str) -> None:
    assert examine(host) == NOWHERE or examine(host).site


@pytest.mark.parametrize(
    ("host", "brand"),
    [("paypal.com", "paypal"), ("mail.paypal.co.uk", "paypal"), ("amazon.de", "amazon"), ("outlook.com", "microsoft"),
     ("facebookmail.com", "facebook"), ("paypal.xyz", None), ("example.org", None)],
)  # fmt: skip
def test_brands_under_ordinary_endings_are_theirs(host: str, brand: str | None) -> None:
    found = examine(host).brand
    assert found == brand or {found, brand} == {"microsoft", "outlook"} or {found, brand} == {"facebook", "instagram"}


@pytest.mark.parametrize(
    "host",
    ["paypa1.com", "раураl.com", "xn--pypal-4ve.com", "arnazon.com", "paypal.xyz", "micros0ft.net", "netfIix.tv"],
)
def test_imitations_are_recognised(host: str) -> None:
    assert examine(host.lower()).imitates


@pytest.mark.parametrize("host", ["paypal.com.secure.example", "paypal-login.example", "secure-dhl.example"])
def test_a_brand_in_somebody_elses_domain(host: str) -> None:
    assert examine(host).mentions


@pytest.mark.parametrize(
    "host",
    ["apple-orchard.example", "chase-the-sun.example", "amazonas-reisen.example", "payroll.example", "apfel.de"],
)
def test_ordinary_words_convict_nobody(host: str) -> None:
    found = examine(host)
    assert (found.imitates, found.mentions, found.brand) == (None, None, None)


@pytest.mark.parametrize(
    ("site", "alike"),
    [("brightvvater.example", True), ("brightwatr.example", True), ("brightwater.example", False),
     ("brightwater.net", False), ("darkwater.example", False), ("", False)],
)  # fmt: skip
def test_domains_like_the_accounts_own(site: str, alike: bool) -> None:
    assert resembles(site, "brightwater.example") is alike
