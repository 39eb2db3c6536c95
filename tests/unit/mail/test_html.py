"""Beside the fixtures html_*.eml."""

import pytest

from tasks.mail import html
from tasks.mail.html import sanitise


@pytest.mark.parametrize(
    ("unsafe", "safe"),
    [
        ("a<script>x</script>b", "ab"),
        ("<style>p{}</style><title>t</title>x", "x"),
        ("<!-- c -->x", "x"),
        ('<p onclick="x" ID="y" style="color:red;position:fixed">x</p>', '<p style="color:red">x</p>'),
        ('<img src="cid:a@b" onerror="x">', '<img src="cid:a@b">'),
        ('<img src="//evil.example/x">', "<img>"),
        ('<img src="DATA:image/gif;base64,R0lGODlh">', '<img src="DATA:image/gif;base64,R0lGODlh">'),
        ('<a href="data:image/png;base64,AAAA">x</a>', '<a rel="noopener noreferrer">x</a>'),
        ('<a href="&#106;avascript:x">x</a>', '<a rel="noopener noreferrer">x</a>'),
        ('<a href="java\nscript:x">x</a>', '<a rel="noopener noreferrer">x</a>'),
        ("<object><embed></object><base href=x><link rel=stylesheet href=x>y", "y"),
        ("<math><mtext><style><img src=x onerror=y></style></mtext></math>z", "z"),
        ("<form><input><button>b</button></form>", "b"),
        ('<blockquote type="cite" cite="javascript:x">q</blockquote>', '<blockquote type="cite">q</blockquote>'),
        (
            "<td style=\"background:url('cid:a')\">x<p style=\"background-image:url('cid:a@b')\">y",
            'x<p style="background-image:url(&quot;cid:a@b&quot;)">y</p>',
        ),
        ("<b>unclosed", "<b>unclosed</b>"),
        ("&lt;script&gt;", "&lt;script&gt;"),
        ("<o:p>x</o:p>", "x"),
    ],
)
def test_sanitise(unsafe: str, safe: str) -> None:
    assert sanitise(unsafe) == safe


def test_panic_of_the_sanitiser_is_an_error_of_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    class Cleaner:
        def clean(self, _html: str) -> str:
            raise PanicException

    monkeypatch.setattr(html, "_CLEANER", Cleaner())
    with pytest.raises(ValueError, match="panicked"):
        sanitise("x")
