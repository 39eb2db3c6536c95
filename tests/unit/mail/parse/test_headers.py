import pytest

from tasks.mail.parse.headers import base64_bytes, decode_value, one_line


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?a_b=5F?=", "a b_"),
        ("=?UTF-8?b?4oKs?=x", "€x"),
        ("=?utf-8?Q?a?=  =?utf-8?Q?b?= c", "ab c"),
        ("=?utf-8?Q?a?= and =?utf-8?Q?b?=", "a and b"),
        ("=?utf-8?Q??=", ""),
        ("=??Q?a?=", "a"),
        ("=?utf-8?Q?who?_me??=", "who? me?"),
        ("=?utf-8?B?!!!?=", ""),
        ("=?utf-8?Q?=ZZ?=", "=ZZ"),
        ("=?iso-2022-jp?B?GyRCMnE1RBsoQg==?=", "会議"),
        ("=?broken", "=?broken"),
        ("caf\xc3\xa9".encode("latin-1").decode("latin-1"), "café"),
        ("=?utf-8?Q?caf=E9=00?=", "café"),
    ],
)
def test_decode_value(value: str, text: str) -> None:
    assert decode_value(value) == text


def test_8bit_value_in_the_charset_of_the_message() -> None:
    assert decode_value("Привет".encode("koi8_r").decode("latin-1"), "koi8-r") == "Привет"


def test_one_line() -> None:
    assert one_line(" a\r\n\tb\x7f") == "a b"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"YQ", b"a"),
        (b"YWI", b"ab"),
        (b"YWJjY", b"abc"),
        (b"YW Jj\r\n", b"abc"),
        (b"Y", b""),
        (b"", b""),
        (b"=", b""),
    ],
)
def test_base64_bytes(data: bytes, found: bytes) -> None:
    assert base64_bytes(data) == found
