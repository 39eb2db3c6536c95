"""Beside the fixtures message_ids*.eml."""

import pytest

from tasks.mail.parse.identifiers import identifiers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        ("<a@b>", ("a@b",)),
        ("<a@b><c@d>", ("a@b", "c@d")),
        ("<a\tb@c>", ("ab@c",)),
        ("<>", ()),
        ("< >", ()),
        ("<<a@b>>", ("a@b",)),
        ("a@b", ("a@b",)),
        ("words only", ()),
        (f"<{'x' * 2000}>", ("x" * 998,)),
    ],
)
def test_identifiers(value: str, expected: tuple[str, ...]) -> None:
    assert identifiers(value) == expected
