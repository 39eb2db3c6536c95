import pytest

from tasks.mail.parse.charset import codec_for, decode, guess_charset, storable


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("UTF-8", "utf-8"),
        ('"utf8"', "utf-8"),
        ("cp-850", "cp850"),
        ("unicode-1-1-utf-7", "utf-7"),
        ("iso-8859-1", "cp1252"),
        ("Windows1251", "cp1251"),
        ("x-windows-949", "cp949"),
        ("iso-8859-8-i", "iso8859_8"),
        ("gb2312", "gb18030"),
        ("x-sjis", "cp932"),
        ("koi8-u", "koi8_u"),
        ("", None),
        ("x-unknown", None),
        ("unknown-8bit", None),
        ("a" * 100_000, None),
        ("utf-8\0", "utf-8"),
        # Codecs of Python that are no charsets.
        ("base64", None),
        ("zlib", None),
        ("idna", None),
        ("punycode", None),
        ("rot13", None),
        ("unicode_escape", None),
        ("undefined", None),
    ],
)
def test_codec_for(name: str, codec: str | None) -> None:
    assert codec_for(name) == codec


def test_every_known_codec_decodes() -> None:
    from tasks.mail.parse.charset.labels import _CODE_PAGES, _NAMES, _PYTHON_NAMES

    for name in [*_NAMES, *_PYTHON_NAMES, *_CODE_PAGES]:
        assert codec_for(name)
        assert isinstance(decode(b"a\xff\xfe\0\x80b", name), str)


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Здравствуйте, уважаемые коллеги! Отправляю вам отчёт за прошлый месяц.", "cp1251"),
        ("Здравствуйте, уважаемые коллеги! Отправляю вам отчёт за прошлый месяц.", "koi8_r"),
        ("Bonjour, voici la réunion de l’été à Paris. Ça va être génial, à bientôt", "cp1252"),
        ("お世話になっております。会議の資料を添付いたします。", "euc_jp"),
        ("您好，请查收附件中的会议纪要，如有问题请与我联系。谢谢！", "gb18030"),
        ("안녕하세요. 회의 자료를 첨부하오니 확인 부탁드립니다. 감사합니다.", "cp949"),
        ("Καλημέρα σας, σας στέλνω τα έγγραφα που ζητήσατε", "cp1253"),
    ],
)
def test_guess(text: str, codec: str) -> None:
    assert text.encode(codec).decode(guess_charset(text.encode(codec)) or "") == text


def test_guess_looks_where_the_text_is_not_ascii() -> None:
    data = b"plain " * 10_000 + "Здравствуйте, уважаемые коллеги!".encode("cp1251")
    assert decode(data).endswith("Здравствуйте, уважаемые коллеги!")


def test_without_a_guess_it_is_windows_1252() -> None:
    assert decode("Привет".encode("koi8_r"), guess=False) == "ðÒÉ×ÅÔ"
    assert decode(b"\x81", guess=False) == "\x81"


@pytest.mark.parametrize(
    ("text", "stored"),
    [("a\0b", "ab"), ("\ud800", "\ufffd"), ("é\udfff\0", "é\ufffd"), ("\U0001f600", "\U0001f600")],
)
def test_storable(text: str, stored: str) -> None:
    assert storable(text) == stored


def test_byte_order_mark_is_no_text() -> None:
    assert decode(b"\xef\xbb\xbfa") == "a"
    assert decode(b"\xfe\xff\0a", "utf-16") == "a"
    assert decode(b"\0a", "utf-16") == "a"
