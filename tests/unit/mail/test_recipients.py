"""Recipients as callers give them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import MessageInvalidError
from tasks.mail.recipients import mailboxes, unique

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
    "": [],
    "  ": [],
}


@pytest.mark.parametrize("given", GOOD)
def test_addresses_are_read(given: str) -> None:
    assert mailboxes(given, "to") == tuple(GOOD[given])
    assert mailboxes([given], "to") == tuple(GOOD[given])


BAD = [
    "bob", "bob@", "@example.net", "a b@example.net", "bob@example.net eve@example.net", "<bob@example.net",
    "bob@example.net>", "bob@example.net>,<eve@example.net", "bob@exa mple.net", "bob@example..net",
    "bob@-example.net", ".bob@example.net", "bo..b@example.net", "bob@example.net\r\nRCPT TO:<eve@example.net>",
    "bob@example.net\0", '"bob\n"@example.net', "Bob\r\nBcc: eve@example.net <bob@example.net>",
    f"{'b' * 65}@example.net", f"bob@{'e' * 64}.net", f"bob@{'example.' * 40}net", "bob@example.net,,eve@example.net",
    "bob@\u2028example.net", "bob@example.net.",
]  # fmt: skip


@pytest.mark.parametrize("given", BAD)
def test_what_is_no_address_is_named(given: str) -> None:
    with pytest.raises(MessageInvalidError, match=r"^The message cannot be sent.*cc: "):
        mailboxes(["eve@example.net", given], "cc")


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
