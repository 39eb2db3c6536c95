"""Each charset met in mail: a short and a long text, rightly labelled, by an alias, wrongly, not at all, and cut.

The samples are encoded by Python, whose encoders have no part in the readings under test.

Two cells of the table are empty, because the right answer cannot be known. A few letters without a label fit many
alphabets, unless they are UTF-8 or ISO-2022. And a long text without a label comes out right where `GUESSED` says
so: charsets whose letters lie at each other's places, such as those of windows-1250 and ISO 8859-2, or of Hebrew and
of Cyrillic small letters, or those of DOS and of the Macintosh, are not told apart by single bytes alone.
"""

from typing import NamedTuple

import pytest

from tasks.mail.parse.charset import decode


class Sample(NamedTuple):
    """`codec` is Python's encoder; `alias` another name of the charset."""

    label: str
    alias: str
    codec: str
    short: str
    long: str


CZECH = ("Žluťoučký", "Příliš žluťoučký kůň úpěl ďábelské ódy, a přesto večer došel domů až k řece.")
POLISH = ("Zażółć", "Zażółć gęślą jaźń, powiedział sąsiad, kiedy przyszła wiosna i śnieg stopniał.")
GERMAN = ("Grüße", "Schöne Grüße aus Köln, wir hören uns nächste Woche über die Prüfung der Maße.")
FRENCH = ("Reçu à midi", "Voilà la réponse: l'été à la mer était très agréable, où êtes-vous allés depuis?")
MALTESE = ("Għaġġeb ħ", "Il-ġurnata tat-tielet xahar kienet sħuna ħafna, u żgur li ċempilna lil kulħadd.")
LATVIAN = ("Paldies, ķēniņ", "Šodien mēs sūtām jums vēstuli par jauno līgumu, lūdzu, atbildiet līdz ceturtdienai.")
LATVIAN_NORTH = (
    "Kāpēc šī",
    "Šodien mēs sūtām jums vēstuli par jauno līgumu, un ceram, ka tā jūs sasniegs laikā.",
)
RUSSIAN = (
    "Привет",
    "Здравствуйте, уважаемые коллеги! Отправляю вам отчёт за прошлый месяц, посмотрите его до пятницы.",
)
UKRAINIAN = (
    "Привіт",
    "Доброго дня, шановні колеги! Надсилаю вам звіт за минулий місяць, перегляньте його до п'ятниці, будь ласка.",
)
ARABIC = ("مرحبا", "السلام عليكم، نرسل لكم التقرير عن الشهر الماضي ونرجو منكم الرد قبل يوم الخميس القادم.")
GREEK = ("Καλημέρα", "Καλημέρα σας, σας στέλνω τα έγγραφα που ζητήσατε και περιμένω την απάντησή σας αύριο.")
HEBREW = ("שלום רב", "שלום לכולם, אני שולח לכם את הדוח של החודש שעבר ומבקש את תשובתכם עד יום חמישי.")
TURKISH = (
    "Teşekkür",
    "Değerli arkadaşlar, geçen ayın raporunu gönderiyorum, lütfen perşembeye kadar görüşünü yaz.",
)
NORDIC = ("Blåbær", "Vi møtes på fredag ettermiddag, så får dere også høre om båten og den nye brygga vår på øya.")
WELSH = ("Y cŵn a'r tŷ", "Bydd y cŵn yn y tŷ mawr wrth y dŵr, ac yno y byddwn ninnau hefyd ar ôl y gêm fore Sadwrn.")
ROMANIAN = (
    "Mulțumesc și",
    "Vă mulțumesc pentru scrisoare și vă aștept mâine la ședința despre înțelegere.",
)
# Its tones are marks of their own in windows-1258; here are words without.
VIETNAMESE = ("Đông ơi", "Ông ăn cơm chưa? Tôi đang đi lên phía tây, anh đi đâu, cô ra sân chơi hay đi sang sông?")
THAI = ("สวัสดี", "สวัสดีครับ ผมส่งรายงานของเดือนที่แล้วมาให้ทุกคน กรุณาตอบกลับภายในวันพฤหัสบดี ขอบคุณมากครับ")
CHINESE = ("明天见面", "您好，请查收附件中的会议纪要，如有问题请与我联系，我们星期四下午再讨论一次。谢谢大家！")
TRADITIONAL = ("明天見面", "您好，請查收附件中的會議紀錄，如有問題請與我聯絡，我們星期四下午再討論一次。謝謝大家！")
CANTONESE = ("佢哋喺度", "佢哋今日喺公司開會，啲資料我已經寄咗畀你，有咩問題就聽日再傾啦，唔該晒。")
JAPANESE = ("会議の件", "お世話になっております。来週の会議の資料を添付いたしますので、ご確認をお願いします。")
KOREAN = (
    "회의 자료",
    "안녕하세요. 지난달 보고서를 첨부하오니 목요일까지 답장해 주시기 바랍니다. 감사합니다.",
)

SAMPLES = [
    Sample("utf-8", "utf8", "utf-8", *CHINESE),
    Sample("utf-8", "csUTF8", "utf-8", *RUSSIAN),
    Sample("utf-16", "ucs-2", "utf-16", *GREEK),
    Sample("utf-16le", "unicodefeff", "utf-16-le", *JAPANESE),
    Sample("utf-16be", "unicodeFFFE", "utf-16-be", *RUSSIAN),
    Sample("utf-32", "iso-10646-ucs-4", "utf-32", *FRENCH),
    Sample("utf-7", "unicode-1-1-utf-7", "utf-7", *FRENCH),
    Sample("windows-1250", "x-cp1250", "cp1250", *CZECH),
    Sample("windows-1251", "win-1251", "cp1251", *RUSSIAN),
    Sample("windows-1252", "cp1252", "cp1252", *FRENCH),
    Sample("windows-1253", "cp1253", "cp1253", *GREEK),
    Sample("windows-1254", "x-cp1254", "cp1254", *TURKISH),
    Sample("windows-1255", "cswindows1255", "cp1255", *HEBREW),
    Sample("windows-1256", "cp-1256", "cp1256", *ARABIC),
    Sample("windows-1257", "cp1257", "cp1257", *LATVIAN),
    Sample("windows-1258", "x-cp1258", "cp1258", *VIETNAMESE),
    Sample("windows-874", "dos-874", "cp874", *THAI),
    Sample("iso-8859-1", "ISO_8859-1:1987", "latin-1", *GERMAN),
    Sample("iso-8859-2", "csISOLatin2", "iso8859_2", *POLISH),
    Sample("iso-8859-3", "latin3", "iso8859_3", *MALTESE),
    Sample("iso-8859-4", "iso-ir-110", "iso8859_4", *LATVIAN_NORTH),
    Sample("iso-8859-5", "csISOLatinCyrillic", "iso8859_5", *RUSSIAN),
    Sample("iso-8859-6", "csISO88596I", "iso8859_6", *ARABIC),
    Sample("iso-8859-7", "sun_eu_greek", "iso8859_7", *GREEK),
    Sample("iso-8859-8", "logical", "iso8859_8", *HEBREW),
    Sample("iso-8859-9", "latin5", "iso8859_9", *TURKISH),
    Sample("iso-8859-10", "l6", "iso8859_10", *NORDIC),
    Sample("iso-8859-13", "iso885913", "iso8859_13", *LATVIAN),
    Sample("iso-8859-14", "iso8859-14", "iso8859_14", *WELSH),
    Sample("iso-8859-15", "csISOLatin9", "iso8859_15", *FRENCH),
    Sample("iso-8859-16", "28606", "iso8859_16", *ROMANIAN),
    Sample("tis-620", "csTIS620", "tis_620", *THAI),
    Sample("koi8-r", "koi8-r (Russian)", "koi8_r", *RUSSIAN),
    Sample("koi8-u", "koi8-ru", "koi8_u", *UKRAINIAN),
    Sample("ibm866", "csIBM866", "cp866", *RUSSIAN),
    Sample("ibm850", "csPC850Multilingual", "cp850", *GERMAN),
    Sample("ibm852", "csPCp852", "cp852", *CZECH),
    Sample("ibm437", "cspc8codepage437", "cp437", *GERMAN),
    Sample("macintosh", "csMacintosh", "mac_roman", *FRENCH),
    Sample("x-mac-cyrillic", "x-mac-ukrainian", "mac_cyrillic", *RUSSIAN),
    Sample("x-mac-ce", "cp10029", "mac_latin2", *CZECH),
    Sample("gb2312", "csGB2312", "gb2312", *CHINESE),
    Sample("gbk", "cp936", "gbk", *CHINESE),
    Sample("gb18030", "windows-54936", "gb18030", *CANTONESE),
    Sample("hz-gb-2312", "HZ", "hz", *CHINESE),
    Sample("big5", "cn-big5", "big5", *TRADITIONAL),
    Sample("big5-hkscs", "x-x-big5", "big5hkscs", *CANTONESE),
    Sample("shift_jis", "windows-31j", "cp932", *JAPANESE),
    Sample("euc-jp", "eucJP-ms", "euc_jp", *JAPANESE),
    Sample("euc-jp", "CP51932", "euc_jp", *JAPANESE),
    Sample("iso-2022-jp", "cp50220", "iso2022_jp", *JAPANESE),
    Sample("iso-2022-jp-2", "csISO2022JP2", "iso2022_jp_2", *KOREAN),
    Sample("euc-kr", "ks_c_5601-1987", "euc_kr", *KOREAN),
    Sample("windows-949", "csKSC56011987", "cp949", *KOREAN),
    Sample("johab", "cp1361", "johab", *KOREAN),
    Sample("iso-2022-kr", "csISO2022KR", "iso2022_kr", *KOREAN),
]
LENGTHS = ("short", "long")
# Written so that nothing else can be meant: by a mark, by escapes, or because hardly any other text is valid.
SELF_EVIDENT = {"utf-8", "utf-16", "utf-32", "iso-2022-jp", "iso-2022-jp-2", "iso-2022-kr"}
SEVEN_BIT = {"utf-7", "hz-gb-2312", "iso-2022-jp", "iso-2022-jp-2", "iso-2022-kr"}
WIDE = {"utf-16", "utf-16le", "utf-16be", "utf-32"}
GUESSED = {
    "windows-1251", "windows-1252", "windows-1253", "windows-874", "iso-8859-1", "tis-620", "koi8-r", "koi8-u",
    "gb2312", "gbk", "big5", "shift_jis", "euc-jp", "euc-kr", "windows-949",
}  # fmt: skip


def parametrized(samples: list[Sample]) -> pytest.MarkDecorator:
    cases = [(sample, length) for sample in samples for length in LENGTHS]
    return pytest.mark.parametrize(
        ("sample", "length"), cases, ids=[f"{sample.label}={sample.alias}-{length}" for sample, length in cases]
    )


def encoded(sample: Sample, length: str) -> tuple[str, bytes]:
    text = sample.short if length == "short" else sample.long
    return text, text.encode(sample.codec)


def test_the_table_has_forty_charsets() -> None:
    assert len({sample.label for sample in SAMPLES}) >= 40


@parametrized(SAMPLES)
def test_right_label(sample: Sample, length: str) -> None:
    text, data = encoded(sample, length)
    assert decode(data, sample.label) == text
    assert decode(data, sample.label.upper(), guess=False) == text


@parametrized(SAMPLES)
def test_alias(sample: Sample, length: str) -> None:
    text, data = encoded(sample, length)
    assert decode(data, sample.alias) == text


@parametrized(SAMPLES)
def test_utf8_that_is_labelled_as_another_charset(sample: Sample, length: str) -> None:
    text, _ = encoded(sample, length)
    assert decode(text.encode(), sample.label) == text


@pytest.mark.parametrize("label", ["utf-8", "us-ascii", "unknown-8bit", None])
@parametrized([sample for sample in SAMPLES if sample.label in SELF_EVIDENT])
def test_no_label_or_one_that_cannot_be(sample: Sample, length: str, label: str | None) -> None:
    text, data = encoded(sample, length)
    assert decode(data, label) == text


@pytest.mark.parametrize("label", ["utf-8", "us-ascii", "unknown-8bit", None])
@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if sample.label in GUESSED], ids=lambda s: s.alias)
def test_guessed(sample: Sample, label: str | None) -> None:
    assert decode(sample.long.encode(sample.codec), label) == sample.long


@parametrized(SAMPLES)
def test_one_cut_character(sample: Sample, length: str) -> None:
    """The text without its last byte: what came before stays, and no more than the last character is lost."""
    text, _ = encoded(sample, length)
    text = text.rstrip(".!?")
    data = text.encode(sample.codec)
    end = len(data)
    if sample.label in SEVEN_BIT:
        # The last character, not the switch back to ASCII behind it.
        end -= next((len(switch) for switch in (b"\x1b(B", b"~}", b"\x0f") if data.endswith(switch)), 0)
    cut = decode(data[: end - 1], sample.label)
    assert cut in (text[:-1], text[:-1] + "\ufffd")


@parametrized([sample for sample in SAMPLES if sample.label not in SEVEN_BIT | WIDE])
def test_utf8_with_a_cut_character_whatever_its_label(sample: Sample, length: str) -> None:
    text, _ = encoded(sample, length)
    end = next(place for place in range(len(text) - 1, -1, -1) if not text[place].isascii()) + 1
    cut = text[:end].encode()[:-1]
    assert decode(cut, "utf-8") == text[: end - 1] + "\ufffd"
    assert length == "short" or decode(cut, sample.label) == text[: end - 1] + "\ufffd"


@parametrized([sample for sample in SAMPLES if sample.label not in SEVEN_BIT | WIDE])
def test_a_character_cut_where_a_line_ends(sample: Sample, length: str) -> None:
    """One byte lost before a line end: the next line is whole."""
    text, data = encoded(sample, length)
    data, text = text.rstrip(".!?").encode(sample.codec), text.rstrip(".!?")
    found = decode(data[:-1] + b"\n" + data, sample.label)
    assert found in (f"{text[:-1]}\n{text}", f"{text[:-1]}\ufffd\n{text}")
