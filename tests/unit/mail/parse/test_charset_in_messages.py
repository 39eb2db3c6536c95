"""One decision about charsets wherever text stands in a message: body, encoded word, raw header field, file name."""

from base64 import b64encode

import pytest

from tasks.mail.parse.message import parse

ESC = b"\x1b"


def message(data: bytes, label: str, raw_label: str = "") -> bytes:
    """A message that holds `data` in each of these places, declared as `label`."""
    word = b"=?%s?B?%s?=" % (label.encode(), b64encode(data))
    return b"\r\n".join(
        [
            b"From: " + word + b" <ada@one.example>",
            b"To: " + data + b" <bo@two.example>",
            b"Subject: " + word,
            b"X-Raw: " + data,
            b"MIME-Version: 1.0",
            b"Content-Type: multipart/mixed; boundary=b",
            b"",
            b"--b",
            b'Content-Type: application/pdf; name="' + data + b'.pdf"',
            b"",
            b"%PDF",
            b"--b",
            b"Content-Type: text/plain; charset=" + label.encode(),
            b"Content-Transfer-Encoding: 8bit",
            b"",
            data,
            b"--b--",
            b"",
        ]
    )


def readings(raw: bytes) -> dict[str, str | None]:
    found = parse(raw)
    return {
        "body": found.text_body,
        "word": found.subject,
        "name in word": found.from_[0].name,
        "raw": found.headers["X-Raw"][0],
        "raw name": found.to[0].name,
        "address": found.to[0].address,
        "file": (found.attachments[0].filename or "").removesuffix(".pdf"),
    }


SAMPLES = {
    # NEC's row 13 and IBM's characters, which iso-2022-jp and euc-jp have in mail as in browsers.
    ("iso-2022-jp", ESC + b"$B-!7n-;5M-j" + ESC + b"(B"): "①月Ⅶ詰㈱",
    ("iso-2022-jp", ESC + b"$B-b9b66\x79\x21" + ESC + b"(B"): "№高橋纊",
    # A picture of a mobile phone, in no table: only it is lost.
    ("iso-2022-jp", ESC + b"$B2q5DuA7o" + ESC + b"(B"): "会議\ufffd件",
    ("iso-2022-jp", ESC + b"(I6=B" + ESC + b"(B"): "ｶｽﾂ",
    ("euc-jp", b"\xad\xa1\xb7\xee\xad\xea"): "①月㈱",
    ("euc-jp", b"\x8f\xb0\xa1\x8e\xb6"): "丂ｶ",
    ("shift_jis", b"\x87\x40\x8c\x8e\x87\x8a\xf8\x9f"): "①月㈱\ue63e",
    # UTF-8 that lost the last byte of its last character.
    ("utf-8", "明天见面".encode()[:-1]): "明天见\ufffd",
    ("utf-8", "Grüße 面".encode()[:-1]): "Grüße \ufffd",
    # UTF-8 that is said to be something else.
    ("iso-8859-15", "café".encode()): "café",
    ("windows-1251", "café".encode()): "café",
    ("windows-1251", "naïve".encode()): "naïve",
    ("gb2312", "Привет café".encode()): "Привет café",
    ("big5", "你好".encode()): "你好",
    ("euc-kr", "안녕하세요".encode()): "안녕하세요",
    ("shift_jis", "日本".encode()): "日本",
    ("iso-8859-1", "😀 ok".encode()): "😀 ok",
    # The declared charset is right, though its bytes happen to be valid UTF-8.
    ("gb2312", b"\xc4\xb6"): "亩",
    ("iso-8859-2", b"P\xd3\xa3"): "PÓŁ",
    # ISO-2022-JP that is not declared, or as what it is not; and Shift_JIS that is declared as ISO-2022-JP.
    ("utf-8", ESC + b"$B2q5D" + ESC + b"(B"): "会議",
    ("us-ascii", ESC + b"$B2q5D" + ESC + b"(B"): "会議",
    ("iso-8859-1", ESC + b"$@2q5D" + ESC + b"(J"): "会議",
    ("iso-2022-jp", "会議の件".encode("cp932")): "会議の件",
    ("iso-2022-jp", "会議の件".encode("euc_jp")): "会議の件",
    ("iso-2022-jp", "会議".encode()): "会議",
    # A label with a comment, and labels of Windows.
    ("windows-31j", "会議".encode("cp932")): "会議",
    ("cp50221", ESC + b"$B-j" + ESC + b"(B"): "㈱",
    ("eucJP-ms", "会議".encode("euc_jp")): "会議",
    ("CP51932", "会議".encode("euc_jp")): "会議",
    # What raw file names and fields are in: as the text.
    ("gb2312", "合同".encode("gbk")): "合同",
    ("big5", "合約".encode("big5")): "合約",
    ("euc-kr", "계약서".encode("euc_kr")): "계약서",
    ("koi8-r", "Договор".encode("koi8_r")): "Договор",
    ("iso-8859-2", "Umowa żółta".encode("iso8859_2")): "Umowa żółta",
}


@pytest.mark.parametrize(
    ("label", "data"), SAMPLES, ids=[f"{label}-{SAMPLES[label, data]}" for label, data in SAMPLES]
)
def test_everywhere_the_same(label: str, data: bytes) -> None:
    text = SAMPLES[label, data]
    found = readings(message(data, label))
    assert found.pop("address") == "bo@two.example"
    assert found == dict.fromkeys(found, text)


def test_label_with_a_comment() -> None:
    raw = message("Привет".encode("koi8_r"), "koi8-r").replace(b"=koi8-r\r\n", b"=koi8-r (Russian)\r\n")
    assert readings(raw)["body"] == "Привет"


def test_raw_names_are_guessed_together_where_no_text_says() -> None:
    name = "合同附件请查收".encode("gbk")
    raw = message(b"x", "utf-8").replace(b"x.pdf", name + b".pdf").replace(b"X-Raw: x", b"X-Raw: " + name)
    assert readings(raw)["file"] == readings(raw)["raw"] == "合同附件请查收"


def test_unknown_label_of_a_word_is_the_messages_charset() -> None:
    word = b64encode("Договор".encode("koi8_r"))
    raw = message(b"x", "koi8-r").replace(b"Subject: =?koi8-r?B?eA==?=", b"Subject: =?unknown-8bit?B?%s?=" % word)
    assert parse(raw).subject == "Договор"


def test_raw_subject_in_iso_2022_jp_may_hold_what_addresses_are_made_of() -> None:
    """Its bytes are ASCII's: here a comma, a quotation mark and an angle bracket."""
    name = "「，＜".encode("iso2022_jp")
    found = parse(b"From: " + name + b" <ada@one.example>\r\n\r\n")
    assert [tuple(address) for address in found.from_] == [("「，＜", "ada@one.example")]


@pytest.mark.parametrize("label", ["; charset=us-ascii", "; charset=unknown-8bit", ""])
def test_html_says_what_the_label_does_not(label: str) -> None:
    html = '<meta charset="koi8-r"><p>Да</p>'.encode("koi8_r")
    found = parse(b"Content-Type: text/html%s\r\n\r\n%s" % (label.encode(), html))
    assert found.html_body == "<p>Да</p>"


@pytest.mark.parametrize("label", ["utf-8", "us-ascii", "windows-1252", "gb2312", "windows-1251"])
def test_a_mark_of_damage_that_the_sender_wrote_is_utf_8(label: str) -> None:
    """U+FFFD as the only character beyond ASCII: a program wrote what it could not read, in UTF-8."""
    found = readings(message("phone\ufffd".encode(), label))
    assert set(found.values()) == {"phone\ufffd", "bo@two.example"}
