"""Recipients as callers give them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import MessageInvalidError
from tasks.mail.compose.recipients import mailboxes, unique

GOOD = {
    "bob@example.net": [("", "bob@example.net")],
    "<bob@example.net>": [("", "bob@example.net")],
    "Bob <bob@example.net>": [("Bob", "bob@example.net")],
    "Bob (Sales): x@y; <bob@example.net>": [("Bob (Sales): x@y;", "bob@example.net")],
    r'"Bob \"B\" Doe, Dr." <bob@example.net>, eve@example.net': [
        ('Bob "B" Doe, Dr.', "bob@example.net"),
        ("", "eve@example.net"),
    ],
    '"bob doe"@example.net': [("", '"bob doe"@example.net')],
    "bob@[127.0.0.1]": [("", "bob@[127.0.0.1]")],
    "o'hara+tag@example.co.uk": [("", "o'hara+tag@example.co.uk")],
    "bob@straße.example": [("", "bob@xn--strae-oqa.example")],
    "संपर्क@डाटामेल.भारत": [("", "संपर्क@xn--c2bd4bq1db8d.xn--h2brj9c")],
    # Addresses in use whose local part is no dot-string.
    "try..this@docomo.ne.jp": [("", '"try..this"@docomo.ne.jp')],
    "Try <abc.@ezweb.ne.jp>, .x@docomo.ne.jp": [("Try", '"abc."@ezweb.ne.jp'), ("", '".x"@docomo.ne.jp')],
    '"try..this"@docomo.ne.jp': [("", '"try..this"@docomo.ne.jp')],
    '"bob"@example.net': [("", "bob@example.net")],
    r'"b\"\\b"@example.net': [("", r'"b\"\\b"@example.net')],
    # Names of any text.
    "山田　太郎 <taro@example.jp>": [("山田　太郎", "taro@example.jp")],
    "Bob\xa0Doe <bob@example.net>": [("Bob\xa0Doe", "bob@example.net")],
    "👨\u200d👩\u200d👧 क्\u200cष <bob@example.net>": [("👨\u200d👩\u200d👧 क्\u200cष", "bob@example.net")],
    "שלום\u200e co\xadop \U0001fae9\U0001fbff <bob@example.net>": [
        ("שלום\u200e co\xadop \U0001fae9\U0001fbff", "bob@example.net")
    ],
    "Bob\tDoe <bob@example.net>": [("Bob\tDoe", "bob@example.net")],
    # Blanks around addresses, seen and unseen.
    "bob@example.net,\teve@example.net": [("", "bob@example.net"), ("", "eve@example.net")],
    "bob@example.net,\n\u200beve@example.net,\xa0\u3000x@y.example\r\n": [
        ("", "bob@example.net"),
        ("", "eve@example.net"),
        ("", "x@y.example"),
    ],
    "\u202abob@example.net\u202c": [("", "bob@example.net")],
    "Bob < \ufeffbob@example.net\u200b >": [("Bob", "bob@example.net")],
    "": [],
    "  ": [],
    "\n\u200b": [],
}


@pytest.mark.parametrize("given", GOOD)
def test_addresses_are_read(given: str) -> None:
    assert mailboxes(given, "to") == tuple(GOOD[given])
    assert mailboxes([given], "to") == tuple(GOOD[given])


BAD = [
    "bob", "bob@", "@example.net", "a b@example.net", "bob@example.net eve@example.net", "<bob@example.net",
    "bob@example.net>", "bob@example.net>,<eve@example.net", "bob@exa mple.net", "bob@example..net",
    "bob@-example.net", "bob@example.net\r\nRCPT TO:<eve@example.net>",
    "bob@example.net\0", '"bob\n"@example.net', "Bob\r\nBcc: eve@example.net <bob@example.net>",
    f"{'b' * 65}@example.net", f"bob@{'e' * 64}.net", f"bob@{'example.' * 40}net", "bob@example.net,,eve@example.net",
    "bob@\u2028example.net", "bob@example.net.",
]  # fmt: skip


@pytest.mark.parametrize("given", BAD)
def test_what_is_no_address_is_named(given: str) -> None:
    with pytest.raises(MessageInvalidError, match=r"^The message cannot be sent.*cc: "):
        mailboxes(["eve@example.net", given], "cc")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("bob", "it has no @"),
        ("@example.net", "nothing stands before the @"),
        ("a b@example.net", "commas"),
        ("<a b@example.net>", r"U\+0020 SPACE cannot stand before the @ without"),
        ("<a\xa0b@example.net>", r"U\+00A0 NO-BREAK SPACE cannot stand before the @"),
        ("a\u200bb@example.net", r"U\+200B ZERO WIDTH SPACE cannot stand before the @"),
        ("a;b@example.net", r"U\+003B SEMICOLON cannot stand before the @ without quotation marks"),
        ("bob＠example.net", "it has no @"),
        ("bob@exa;mple.net", r"U\+003B SEMICOLON cannot stand in a domain"),
        ("bob@example..net", "each of its parts"),
        ("bob@exa\u200bmple.net.", "each of its parts"),
        (f"{'b' * 65}@example.net", "more than 64 characters"),
        ('"bob@example.net', 'a " is without its second one'),
        ("Bob <bob@example.net", "a < or > is without the other one"),
        ("bob@example.net,,eve@example.net", "nothing stands before a comma"),
        ("Doe, Bob <bob@example.net>", "it has no @"),
        ("Bob\u2028Doe <bob@example.net>", r"the name .* holds a line end, U\+2028 LINE SEPARATOR"),
        ("Bob\r\nBcc: x <bob@example.net>", r"the name .* holds a line end, U\+000D a control character"),
        ('"b\nb"@example.net', r"U\+000A a control character cannot stand"),
        ("\ud800@example.net", r"U\+D800"),
    ],
)
def test_a_refusal_says_why(given: str, why: str) -> None:
    with pytest.raises(MessageInvalidError, match=why):
        mailboxes(given, "to")


def test_a_long_list_takes_no_longer_than_its_length() -> None:
    given = ",\n\u200b ".join(f"user.{number}.@example.net" for number in range(20_000)) + " " * 100_000
    assert len(mailboxes(given, "to")) == 20_000


@given(st.text(max_size=60))
def test_nothing_that_ends_a_command_passes(text: str) -> None:
    try:
        found = mailboxes(text, "to")
    except MessageInvalidError:
        return
    for _, address in found:
        assert address.isprintable()
        assert ">" not in address.replace('"', "").rpartition("@")[2]
        assert address.rpartition("@")[2].isascii()


def test_each_address_once_in_order() -> None:
    to = mailboxes("bob@example.net, Eve@example.net", "to")
    cc = mailboxes("Bob <bob@EXAMPLE.net>, eve@example.net", "cc")

    assert unique((to, cc)) == ("bob@example.net", "Eve@example.net", "eve@example.net")
