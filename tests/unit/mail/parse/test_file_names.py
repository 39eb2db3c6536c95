"""Names of files: what they become, and what stays as it is. Beside the fixtures filename_*.eml."""

import itertools
import shutil
import subprocess
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.mail.parse.file_names import file_name
from tests.conftest import unavailable

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
KEYCAP = "1\ufe0f\u20e3"
# Perl's tables of Unicode. The signs over numbers (Prepended_Concatenation_Mark) are of category Cf and are seen.
PERL = r"""
for my $code (0 .. 0xd7ff, 0xe000 .. 0x10ffff) {
    my $char = chr $code;
    print "$code\n" if $char =~ /\p{Default_Ignorable_Code_Point}|\p{Cc}|\p{Cf}|\p{Z}/
        && $char !~ /\p{Prepended_Concatenation_Mark}/;
}
"""
# Characters of other categories whose shape is empty.
EMPTY = "\u2800\U0001d159\U00016fe4\U00013441\U00013442"


@pytest.fixture(scope="module")
def unseen() -> list[str]:
    """Every character that is shown as nothing."""
    if not shutil.which("perl"):
        unavailable("perl, whose tables of Unicode say which characters are shown as nothing, is not installed")
    done = subprocess.run(["perl", "-e", PERL], capture_output=True, text=True, check=True)
    return [*map(chr, map(int, done.stdout.split())), *EMPTY]


def test_no_character_that_is_shown_as_nothing_hides_in_a_name(unseen: list[str]) -> None:
    assert len(unseen) > 4200
    beside = [*itertools.product("a\u0436\u845b\u18201.", "b\u0436")]
    wrong = []
    for char in unseen:
        for before, after in beside:
            # A character that was a blank may stay one.
            found = "".join((file_name(f"x{before}{char}{after}.txt") or "").split())
            if found != f"x{before}{after}.txt":
                wrong.append((before, char, after))
        if file_name(char * 3) is not None or file_name(f"a{char * 9}b") not in ("ab", "a b"):
            wrong.append(("", char, ""))
    assert not wrong


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        # Nothing is left
        (None, None),
        ("", None),
        (".", None),
        ("..", None),
        ("...", None),
        (" . . ", None),
        ("dir/", None),
        ("\u200b\u202e\ufeff", None),
        ("\u3000\xa0\u2800", None),
        # Paths
        ("a/../b.txt", "b.txt"),
        ("C:\\a\\b.txt", "b.txt"),
        ("c:b.txt", "b.txt"),
        ("\\\\server\\share\\b.txt", "b.txt"),
        ("/etc/passwd\0", "passwd"),
        ("/etc\u202e/pass\u200bwd", "passwd"),
        ("../\u200b..", None),
        # Controls and line ends
        ("a\r\nb.txt", "a b.txt"),
        ("a\x1b[2Jb\x9b\x7f\u2028c.txt", "a [2Jb c.txt"),
        ("\ud83dhalf.txt", "\ufffdhalf.txt"),
        # Turned or hidden
        ("invoice\u202egpj.exe", "invoicegpj.exe"),
        ("\u2066a\u2069\u200f\u200e\u061cb.txt", "ab.txt"),
        ("in\u00advo\u200bice\u2060.ex\ufeffe", "invoice.exe"),
        ("report.pdf\u200d", "report.pdf"),
        ("report\u200c.pd\u200df", "report.pdf"),
        ("\u3164\uffa0\u115f.exe", ".exe"),
        ("a\U000e0065\U000e0078\U000e0065.txt", "a.txt"),
        ("invoice.pdf" + " " * 100 + ".exe", "invoice.pdf .exe"),
        ("invoice.pdf" + "\u3000\xa0" * 50 + ".exe", "invoice.pdf .exe"),
        ("\u845b\U000e0100\u57ce.txt", "\u845b\u57ce.txt"),
        ("\u1820\u180b\u1821\u180f.txt", "\u1820\u1821.txt"),
        ("\u0430\u200d\u0431\u200c\u0432.txt", "\u0430\u0431\u0432.txt"),
        ("a\ufe0f1\ufe0f.\ufe0fe\ufe01xe", "a1.exe"),
        ("\u2764\ufe0f\ufe0f.txt", "\u2764\ufe0f.txt"),
        ("invoice.pdf" + "\u2800" * 3 + "\U00016fe4" * 2 + ".exe", "invoice.pdf .exe"),
        ("a \u2800\x01 b.txt", "a b.txt"),
        ("\U0001f3f4\U000e0068\U000e0069\U000e007f.txt", "\U0001f3f4.txt"),
        (ENGLAND[:-1] + ".txt", "\U0001f3f4.txt"),
        (ENGLAND[:-1] + "\U000e0061\U000e007f.txt", "\U0001f3f4.txt"),
        # What Windows does not take, or takes for something else
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("Aux .tar.gz", "_Aux .tar.gz"),
        ("com1.log", "_com1.log"),
        ("LPT\u00b2", "_LPT\u00b2"),
        ("conin$", "_conin$"),
        ("dir/prn", "_prn"),
        ("co\u200bn", "_con"),
        ("console.txt", "console.txt"),
        ("com10.txt", "com10.txt"),
        ("a.exe. . .", "a.exe"),
        ("a.exe\u3000.\xa0", "a.exe"),
        ("  a.txt  ", "a.txt"),
        # Too long
        ("x" * 300, "x" * 255),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("\u65e5" * 100 + ".pdf", "\u65e5" * 83 + ".pdf"),
        ("x" * 300 + "." + "y" * 17, "x" * 255),
        ("x" * 250 + "." * 20 + "pdf", "x" * 250 + ".pdf"),
        ("x." + "y" * 16 + "z" * 300, "x." + "y" * 16 + "z" * 237),
        (FAMILY * 20, FAMILY * 14),
        ("x" * 250 + ENGLAND, "x" * 250 + "\U0001f3f4"),
        ("x" * 251 + KEYCAP, "x" * 251 + "1"),
        # Faithful
        (".profile", ".profile"),
        ("two  blanks.txt", "two  blanks.txt"),
        ("Re: quarter (1) [final] #3 50% + \u20ac.eml", "Re: quarter (1) [final] #3 50% + \u20ac.eml"),
        ("\u0641\u0627\u062a\u0648\u0631\u0629.pdf", "\u0641\u0627\u062a\u0648\u0631\u0629.pdf"),
        ("\u05d7\u05e9\u05d1\u05d5\u05df.pdf", "\u05d7\u05e9\u05d1\u05d5\u05df.pdf"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.txt",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.txt",
        ),
        ("\u0915\u094d\u200d\u0937.txt", "\u0915\u094d\u200d\u0937.txt"),
        (f"{FAMILY}\u2764\ufe0f\u200d\U0001f525{ENGLAND}.png", f"{FAMILY}\u2764\ufe0f\u200d\U0001f525{ENGLAND}.png"),
        (f"{KEYCAP}{SCOTLAND}\u00a9\ufe0f.png", f"{KEYCAP}{SCOTLAND}\u00a9\ufe0f.png"),
        ("\u0600\u0661\u06dd.txt", "\u0600\u0661\u06dd.txt"),
        ("e\u0301te\u0301 q\u0307\u0323.txt", "e\u0301te\u0301 q\u0307\u0323.txt"),
    ],
)
def test_file_name(name: str | None, safe: str | None) -> None:
    assert file_name(name) == safe


@pytest.mark.parametrize(
    "name", ["." * 40_000 + "x", " ." * 8_000 + "x", "\u200d" * 40_000 + "x", "\u2800" * 40_000 + "x"]
)
def test_no_name_takes_long(name: str) -> None:
    started = time.process_time()
    file_name(name)
    assert time.process_time() - started < 1


_TRICKY = st.sampled_from(
    "/\\.. :\u202e\u200b\u200d\u200c\ufeff\n\x1bcon\u65e5\U0001f3f4\U000e0067\U000e0062\U000e007f\u3164\ud83d"
    "\u2764\ufe0f1\u20e3\u2800\x01\u0628"
)


@given(st.text(st.characters() | _TRICKY, max_size=400))
def test_whatever_a_name_is_it_is_safe_and_stays_so(name: str) -> None:
    safe = file_name(name)
    if safe is None:
        return
    assert file_name(safe) == safe
    assert len(safe.encode()) <= 255
    assert safe not in ("", ".", "..")
    assert not set(safe) & set("/\\")
    assert safe == safe.strip() == safe.rstrip(".")
    left = safe.replace(ENGLAND, "")
    assert not {unicodedata.category(char) for char in left} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(left) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\u200e\u200f\ufeff\u061c")
