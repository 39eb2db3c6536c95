"""Each rule meets what it is for, and not what only resembles it."""

import io
import time
import zipfile

import pytest

from tasks.mail.parse.message import parse
from tasks.mail.spam import judge
from tasks.mail.spam.evidence import Addressee
from tasks.mail.spam.weights import RULES, WEIGHTS
from tests.support.spam import OWN_ADDRESS, OWN_SERVER, RECIPIENT, findings, letter, score, with_file

PASSED = f"{OWN_SERVER}; dmarc=pass (p=REJECT dis=NONE) header.from=example.org; spf=pass; dkim=pass header.d=x"


def test_an_ordinary_message_meets_nothing() -> None:
    assert findings(letter()) == {}
    assert score(letter()) == 0.0


def test_the_score_is_the_sum_of_the_weights() -> None:
    raw = letter(From="PayPal <a@example.org>", Subject="HURRY UP NOW!!", Date=None)
    verdict = judge(parse(raw), RECIPIENT)
    assert verdict.indicators[0].rule == "name_claims_brand", "the heaviest first"
    assert verdict.score == pytest.approx(sum(WEIGHTS[indicator.rule] for indicator in verdict.indicators))


def test_a_score_stays_between_0_and_1() -> None:
    worst = letter(
        "you have won the lottery, dear beneficiary! https://paypal.com@192.0.2.1/ verify your account",
        From="PayPal <x@paypa1.com>", Subject="PАYРAL!! VERIFY", Date=None, To=None, X_Spam_Flag="YES",
    )  # fmt: skip
    best = letter(Authentication_Results=PASSED, In_Reply_To="<1@x>")
    assert (score(worst), score(best)) == (1.0, 0.0)


def test_every_rule_has_its_own_name_and_weighs_something() -> None:
    assert len(WEIGHTS) == len(RULES)
    assert all(-0.5 < rule.weight <= 0.6 and rule.weight for rule in RULES)


@pytest.mark.parametrize(
    ("results", "rules"),
    [
        (PASSED, {"dmarc_pass"}),
        (f"{OWN_SERVER} 1; dmarc=FAIL", {"dmarc_fail"}),
        (f"{OWN_SERVER}; dmarc=fail; arc=pass (i=1 spf=pass)", {"dmarc_fail", "arc_pass"}),
        (f"{OWN_SERVER}; spf=fail smtp.mailfrom=x", {"spf_fail"}),
        (f"{OWN_SERVER}; spf=softfail; dkim=none", {"spf_softfail"}),
        (f"{OWN_SERVER}; dkim=fail; spf=none; dmarc=none", {"dkim_fail"}),
        (f"{OWN_SERVER}; dkim=fail; dkim=pass", set()),
        (f"{OWN_SERVER}; spf=fail; dkim=pass", set()),
        (f"{OWN_SERVER}; none", set()),
        (f"{OWN_SERVER.upper()}; dmarc=fail", {"dmarc_fail"}),
        (f"{OWN_SERVER}; x=y (dmarc=fail; spf=fail)", set()),
    ],
)
def test_results_of_the_accounts_own_server(results: str, rules: set[str]) -> None:
    assert set(findings(letter(Authentication_Results=results))) == rules


@pytest.mark.parametrize(
    "results",
    ["mx.attacker.example; dmarc=pass", "mx.attacker.example; dmarc=fail", f"evil; {OWN_SERVER}; dmarc=pass",
     f"({OWN_SERVER}) evil; dmarc=pass", f"x{OWN_SERVER}; dmarc=pass", "", ";", "dmarc=pass"],
)  # fmt: skip
def test_results_of_any_other_count_for_nothing(results: str) -> None:
    assert findings(letter(Authentication_Results=results)) == {}


def test_an_account_without_a_trusted_server_believes_nobody() -> None:
    assert findings(letter(Authentication_Results=PASSED), Addressee(OWN_ADDRESS)) == {}


def test_the_topmost_of_the_servers_own_fields_counts() -> None:
    raw = b"Authentication-Results: " + f"{OWN_SERVER}; dmarc=fail\r\n".encode()
    assert set(findings(raw + letter(Authentication_Results=PASSED))) == {"dmarc_fail"}


@pytest.mark.parametrize(
    ("sender", "rule"),
    [
        ("Ada", "no_sender"),
        ('"ada@bank.example" <x@example.org>', "name_shows_other_address"),
        ("PayPal Service <service@example.org>", "name_claims_brand"),
        ("Amаzon <x@example.org>", "name_homograph"),
        ("Service <service@paypa1.com>", "lookalike_domain"),
        ("Bob's boss <boss@brightwatr.example>", "lookalike_of_own_domain"),
        ("Service <service@dhl-parcel.example>", "brand_in_domain"),
        ("Shop <x@exаmple.org>", "mixed_script_domain"),
        (f"Bob <{OWN_ADDRESS}>", "sent_as_recipient"),
    ],
)
def test_senders_that_are_not_who_they_say(sender: str, rule: str) -> None:
    assert rule in findings(letter(From=sender))


@pytest.mark.parametrize(
    "sender",
    ["PayPal <service@paypal.com>", "PayPal <service@mail.paypal.de>", "Amazon Books Club <a@example.org>",
     '"ada@example.org" <ada@example.org>', "Jürgen Müller <j@müller.example>", "Иван Петров <ivan@пример.рф>",
     "Mary Apple <mary@example.org>", "山田太郎 <y@example.jp>", "Microsoft Teams <no-reply@outlook.com>"],
)  # fmt: skip
def test_senders_that_are(sender: str) -> None:
    assert findings(letter(From=sender)) == {}


def test_a_list_that_writes_for_its_members() -> None:
    raw = letter(From='"ada@other.example via Discuss" <discuss@example.org>', List_Id="<discuss.example.org>")
    assert findings(raw) == {}


def test_answers_to_a_free_mail_address() -> None:
    assert "reply_to_freemail" in findings(letter(Reply_To="x@gmail.com"))
    assert findings(letter(From="Ada <ada@gmail.com>", Reply_To="ada2@gmail.com")) == {}


@pytest.mark.parametrize(
    ("headers", "rule"),
    [
        ({"Date": None}, "no_date"),
        ({"Date": "whenever"}, "no_date"),
        ({"Message_ID": None}, "no_message_id"),
        ({"To": "undisclosed-recipients:;"}, "no_recipients"),
        ({"Subject": "OPEN THIS AT ONCE"}, "subject_shouts"),
        ({"Subject": "Free!!"}, "subject_exclaims"),
        ({"Subject": "Vеrify"}, "subject_homograph"),
        ({"Subject": "Re: your order"}, "false_reply"),
        ({"In_Reply_To": "<1@x>", "Subject": "Re: your order"}, "answer"),
        ({"X_Spam_Status": "Yes, score=9.1 required=5.0"}, "called_spam_before"),
        ({"List_Id": "<a.b>", "List_Post": "<mailto:a@b>"}, "mailing_list"),
    ],
)
def test_header_fields(headers: dict[str, str | None], rule: str) -> None:
    assert set(findings(letter(**headers))) == {rule}


@pytest.mark.parametrize("subject", ["FYI", "RE", "", "NASA: IT", "Wichtig!", "What?!", "Ваш заказ", "OK - DONE"])
def test_subjects_that_do_not_shout(subject: str) -> None:
    assert findings(letter(Subject=subject)) == {}


@pytest.mark.parametrize(
    ("link", "rule"),
    [
        ('<a href="https://evil.example/">www.bank.example</a>', "link_shows_other_site"),
        ('<a href="https://evil.example/"><b>https://www.paypal.com/login</b></a>', "link_shows_brand"),
        ('<a href="https://paypa1.com/">Log in</a>', "link_to_lookalike"),
        ('<a href="https://brightvvater.example/">Intranet</a>', "link_to_lookalike"),
        ('<a href="https://paypal.com.evil.example/">Log in</a>', "link_with_brand"),
        ('<a href="https://xn--exmple-4nf.org/">a</a>', "link_mixed_script"),
        ('<a href="https://bit.ly/abc">a</a>', "link_shortener"),
        ('<a href="http://192.0.2.7:8080/x">a</a>', "link_to_ip"),
        ('<a href="http://3221225985/x">a</a>', "link_to_ip"),
        ('<a href="https://bank.example@evil.example/">a</a>', "link_with_login"),
        ('<a href="https://win.prizes.top/">a</a>', "link_odd_domain"),
        ('<a href="https://xn--mnchen-3ya.de/">a</a>', "link_punycode"),
    ],
)
def test_links(link: str, rule: str) -> None:
    assert rule in findings(letter(f"<p>Hello there, this is what I meant when we spoke. {link}</p>", "html"))


@pytest.mark.parametrize(
    "link",
    ['<a href="https://example.com/a">More</a>', '<a href="https://www.example.com/a">example.com</a>',
     '<a href="https://click.example.org/1">www.shop.example</a>', '<a href="mailto:a@b.example">a@b.example</a>',
     '<a href="https://github.com/a/b">github.com/a/b</a>', '<a href="https://a.example/x">v1.2</a>'],
)  # fmt: skip
def test_ordinary_links(link: str) -> None:
    assert findings(letter(f"<p>Hello there, this is what I meant when we spoke. {link}</p>", "html")) == {}


def test_links_in_text() -> None:
    assert set(findings(letter("Log in at http://203.0.113.9/paypal now."))) == {"link_to_ip"}
    assert findings(letter("See https://example.com/a, please.")) == {}


def test_hidden_text_beyond_a_preview_line() -> None:
    words = "lorem ipsum dolor " * 40
    assert "hidden_text" in findings(letter(f'<p>Hi</p><div style="display: none">{words}</div>', "html"))
    preview = '<div style="display:none;max-height:0">This week: ten things about indexes, and a poll.</div>'
    assert findings(letter(f"{preview}<p>Hello</p>", "html")) == {}


@pytest.mark.parametrize("cut", ["\u200b", "\u200c", "\ufeff", "<b></b>", "<span></span>"])
def test_words_cut_in_two(cut: str) -> None:
    assert "split_words" in findings(letter(f"<p>ver{cut}ify your acc{cut}ount and pass{cut}word</p>", "html"))


@pytest.mark.parametrize(
    "body",
    [
        "می\u200cخواهم نمی\u200cدانم می\u200cشود",
        "Donau\u00addampf\u00adschiff\u00adfahrt\u00ads",
        "\u200b \u200b \u200b",
    ],
)
def test_invisible_characters_where_they_belong(body: str) -> None:
    assert findings(letter(body)) == {}


def test_a_picture_instead_of_text() -> None:
    picture = '<a href="https://example.com/x"><img src="https://example.com/offer.png"></a>'
    assert "only_pictures" in findings(letter(picture, "html"))
    assert findings(letter(f"<p>{'We met at the fair in Hamburg. ' * 5}</p>{picture}", "html")) == {}


@pytest.mark.parametrize(
    ("name", "rules"),
    [("setup.exe", {"executable"}), ("invoice.pdf.exe", {"executable", "double_extension"}),
     ("run.JS", {"executable"}), ("pic.jpg     .scr", {"executable", "double_extension"}), ("list.xlsm", {"macros"}),
     ("disk.iso", {"disk_image"}), ("login.html", {"html_file"}), ("report.pdf", set()), ("jquery.min", set()),
     ("archive.tar.gz", set()), ("example.com", set()), ("noextension", set())],
)  # fmt: skip
def test_files_by_name(name: str, rules: set[str]) -> None:
    assert set(findings(with_file(name, b"content"))) == rules


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x" * 50)  # which has no time of its own
    return out.getvalue()


def locked() -> bytes:
    content = bytearray(zipped("secret.txt"))
    content[6] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "rules"),
    [
        ("report.pdf", b"MZ\x90\0" + b"\0" * 60 + b"cannot be run in DOS mode", "disguised_executable"),
        ("notes.bin", b"\x7fELF\2\1", "disguised_executable"),
        ("docs.zip", zipped("a.txt", "invoice.pdf.js"), "executable_in_archive"),
        ("docs.zip", locked(), "locked_archive"),
        ("letter.docx", zipped("word/document.xml", "word/vbaProject.bin"), "macros"),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600 + "_VBA_PROJECT".encode("utf-16-le"), "macros"),
        ("docs.zip", zipped("a.txt", "b/c.pdf"), None),
        ("letter.docx", zipped("word/document.xml"), None),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, None),
        ("notes.txt", b"MZ is how a program begins.", None),
        ("cut.zip", zipped("a.exe")[:20], None),
        ("odd.zip", b"PK\x03\x04", None),
    ],
)  # fmt: skip
def test_files_by_content(name: str, content: bytes, rules: str | None) -> None:
    assert set(findings(with_file(name, content))) == ({rules} if rules else set())


@pytest.mark.parametrize(
    ("text", "rule"),
    [("Dear Beneficiary, write soon.", "phrases_advance_fee"), ("Please verify\r\nyour account.", "phrases_phishing"),
     ("Viagra, of course.", "phrases_pharmacy"), ("ВАМ: онлайн-казино", "phrases_money")],
)  # fmt: skip
def test_known_phrases_also_across_lines(text: str, rule: str) -> None:
    assert set(findings(letter(text))) == {rule}


def test_a_phrase_within_a_word_is_none() -> None:
    assert findings(letter("Our specialists met the socialist.")) == {}


def test_several_phrases_of_one_kind_weigh_more() -> None:
    text = "Verify your account within 24 hours to avoid suspension."
    assert set(findings(letter(text))) == {"phrases_phishing", "two_phrases"}


def test_rules_take_a_bounded_time_for_any_message() -> None:
    links = [f'<a href="http://x{n}.example/">a.b</a>' for n in range(20_000)]
    nasty = ["".join(links), '<div style="display:none">' * 20_000, "\u200b" * 200_000, "://" * 200_000,
             "<a href=\"http://a\"><" + "<" * 200_000, "lottery " * 50_000]  # fmt: skip
    for body in nasty:
        message = parse(letter(body, "html"))
        started = time.process_time()
        judge(message, RECIPIENT)
        # A tenth of a second; what grows with the square of these sizes takes minutes.
        assert time.process_time() - started < 5
