"""Beside the fixtures addresses_*.eml."""

import pytest

from tasks.mail.parse.addresses import addresses


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        (" , ,", []),
        ("a@b", [("", "a@b")]),
        ("<a@b>", [("", "a@b")]),
        ("A B <a@b>,", [("A B", "a@b")]),
        ('"A B" <a@b>, c@d', [("A B", "a@b"), ("", "c@d")]),
        ("A  <a@b> (x)", [("A", "a@b")]),
        ("John Q. Public <j@x>", [("John Q. Public", "j@x")]),
        ("x@y <z@w>", [("x@y", "z@w")]),
        ("A <a b@c>", [("A", "ab@c")]),
        ("a @ b", [("", "a@b")]),
        ('"only a name"', [("only a name", "")]),
        ("=?utf-8?B?w6k=?= =?utf-8?Q?=C3=A9?= <a@b>", [("éé", "a@b")]),
        ("=?utf-8?Q?x=0Ay?= <a@b>", [("x y", "a@b")]),
        ("Grp: ;", []),
        ("A: B: c@d;", [("", "c@d")]),
        ("Grp: A <a@b>, c@d; E <e@f>", [("A", "a@b"), ("", "c@d"), ("E", "e@f")]),
        ("Ren\xc3\xa9 <r@x>", [("René", "r@x")]),
        ("Ren\xe9 <r@x>", [("René", "r@x")]),
        ("=?utf-8?Q?whole_=3Ca=40b=3E?=", [("whole <a@b>", "")]),
        ("\\", [("", "\\")]),
        # Dots with blanks around them (RFC 5322 section 4.4).
        ("bo@two . example", [("", "bo@two.example")]),
        ("bo@two. example, a@b", [("", "bo@two.example"), ("", "a@b")]),
        ("bo . smith @ two . example", [("", "bo.smith@two.example")]),
        ("bo .smith@two.example", [("", "bo.smith@two.example")]),
        ("Bo <bo @ two . example>", [("Bo", "bo@two.example")]),
        ("bo@two .\t(Bo) example", [("Bo", "bo@two.example")]),
        ("Mr. Bo bo@two.example", [("Mr. Bo", "bo@two.example")]),
        ("a@b. c@d", [("", "a@b."), ("", "c@d")]),
        # A comment alone is no mailbox.
        ("Grp: a@b; (comment)", [("", "a@b")]),
        ("Grp: a@b, c@d; (one) , (two), e@f (E)", [("", "a@b"), ("", "c@d"), ("E", "e@f")]),
        ("(nobody)", []),
        ("a@b, (x)", [("", "a@b")]),
        ("undisclosed-recipients:; (none)", []),
        # A name after its address.
        ("<a@b> =?utf-8?q?Bo?=", [("Bo", "a@b")]),
        ('<a@b> "Bo, Jr."', [("Bo, Jr.", "a@b")]),
        ("<a@b> Bo Doe, <c@d>", [("Bo Doe", "a@b"), ("", "c@d")]),
        ("<a@b> Bo <c@d>", [("", "a@b"), ("Bo", "c@d")]),
        ("<a@b> Bo c@d", [("", "a@b"), ("Bo", "c@d")]),
        ("<a@b> c @ d", [("", "a@b"), ("", "c@d")]),
        ("A <a@b> junk", [("A", "a@b")]),
        ("<a@b> Bo (c)", [("Bo", "a@b")]),
        ("Grp: <a@b> Bo;, c@d", [("Bo", "a@b"), ("", "c@d")]),
    ],
)
def test_addresses(value: str, expected: list[tuple[str, str]]) -> None:
    assert [tuple(address) for address in addresses(value)] == expected


def test_huge_list() -> None:
    value = ", ".join(f'"Doe, {i}" <j{i}@example.org>' for i in range(50_000))
    found = addresses(value)
    assert len(found) == 50_000
    assert found[-1] == ("Doe, 49999", "j49999@example.org")
