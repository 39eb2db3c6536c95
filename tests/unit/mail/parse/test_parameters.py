"""Beside the fixtures filename_*.eml and content_type_*.eml."""

import pytest

from tasks.mail.parse.parameters import media_type, text_parameter, with_parameters


@pytest.mark.parametrize(
    ("field", "value", "parameters"),
    [
        ("", "", {}),
        ("Text/HTML", "text/html", {}),
        ("text/plain; Charset=UTF-8", "text/plain", {"charset": "UTF-8"}),
        ('a/b;c="d;e" ;f = g', "a/b", {"c": "d;e", "f": "g"}),
        ('a/b; c="d \\"e\\""', "a/b", {"c": 'd "e"'}),
        ('a/b; c="C:\\dir"', "a/b", {"c": "C:\\dir"}),
        ('a/b; c="never closed', "a/b", {"c": "never closed"}),
        ("a/b; c=1; c=2", "a/b", {"c": "1"}),
        ("a/b (x); ; =; c", "a/b", {}),
        ('a/b name="c d.pdf"', "a/b", {"name": "c d.pdf"}),
        ("a/b\tcharset=utf-8 format=flowed", "a/b", {"charset": "utf-8", "format": "flowed"}),
        ('a/b; charset="utf-8" boundary="c; d"', "a/b", {"charset": "utf-8", "boundary": "c; d"}),
        ('a/b; charset="utf-8"boundary=c', "a/b", {"charset": "utf-8", "boundary": "c"}),
        ("a/b, charset=utf-8, format=flowed", "a/b", {"charset": "utf-8", "format": "flowed"}),
        ("a/b name*0=c name*1=d", "a/b", {"name*0": "c", "name*1": "d"}),
        ("attachment filename=my report.pdf size=12", "attachment", {"filename": "my report.pdf", "size": "12"}),
        ('a/b; name="c size=1.pdf"', "a/b", {"name": "c size=1.pdf"}),
        ("a/b; name=c x=1.pdf", "a/b", {"name": "c x=1.pdf"}),
        ("a/b; name==?utf-8?q?c?=", "a/b", {"name": "=?utf-8?q?c?="}),
        ("a/b (charset=c) charset=d", "a/b", {"charset": "d"}),
        ('"Text / HTML"; charset = utf-8', "text/html", {"charset": "utf-8"}),
    ],
)
def test_with_parameters(field: str, value: str, parameters: dict[str, str]) -> None:
    assert with_parameters(field) == (value, parameters)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"n": "a"}, "a"),
        ({"n": "=?utf-8?Q?=C3=A9?="}, "é"),
        ({"n": "\xc3\xa9"}, "é"),
        ({"n*": "utf-8''%C3%A9"}, "é"),
        ({"n*": "iso-8859-1'en'%E9"}, "é"),
        ({"n*": "nonsense''%C3%A9"}, "é"),
        ({"n*": "%C3%A9"}, "é"),
        ({"n*": "100%"}, "100%"),
        ({"n*1": "b", "n*0": "a"}, "ab"),
        ({"n*0*": "utf-8''%C3", "n*1*": "%A9", "n*2": "%41"}, "é%41"),
        ({"m": "a"}, None),
    ],
)
def test_text_parameter(parameters: dict[str, str], text: str | None) -> None:
    assert text_parameter(parameters, "n") == text


def test_media_type() -> None:
    assert media_type("application/vnd.ms-excel") == "application/vnd.ms-excel"
    assert media_type("text") is None
    assert media_type("a/b/c") is None
