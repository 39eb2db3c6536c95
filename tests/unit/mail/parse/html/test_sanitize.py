"""Beside the fixtures html_*.eml."""

import re

import pytest

from tasks.mail.parse.html import sanitize
from tasks.mail.parse.html.sanitize import sanitise


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
        ('<a href="&#9;data:text/html,x">x</a>', '<a rel="noopener noreferrer">x</a>'),
        ('<img src=" data:image/svg+xml,x">', "<img>"),
        ('<img src="\n DA\tTA:image/gif;base64,R0lG\nODlh">', '<img src="DATA:image/gif;base64,R0lGODlh">'),
        ('<a href=" https://a.example/\nb ">x</a>', '<a href="https://a.example/b" rel="noopener noreferrer">x</a>'),
        ('<img src="https:/a/b"><img src="mailto:a"><img src="https:\\a\\b">', "<img><img><img>"),
        ('<p class="modal" id="menu" name="a" role="dialog">x', "<p>x</p>"),
        (
            '<div class="gmail_quote modal">x</div><div class="gmail_quote">y',
            '<div>x</div><div class="gmail_quote">y</div>',
        ),
        ("<header><nav>x</nav></header>", "<div><div>x</div></div>"),
        ("<p style='background:image-set(\"/x\" 1x);color:red'>x", '<p style="color:red">x</p>'),
        ('<p style="margin:-100vh -100vw;height:100vh;width:100vw">x', '<p style="">x</p>'),
        (
            '<p style="color:var(--brand);width:calc(100% - 2px) !important">x',
            '<p style="width:calc(100% - 2px)">x</p>',
        ),
        (
            "<p title='a style=' style='margin:-1px'> style=\"color:red</p><p style='margin:-1px;color:red'>",
            '<p title="a style=" style=""> style="color:red</p><p style="color:red"></p>',
        ),
        ("<p style='font:1px \"a;b&amp;c\";margin:-1px'>", '<p style="font:1px &quot;a;b&amp;c&quot;"></p>'),
        ("<b>unclosed", "<b>unclosed</b>"),
        ("&lt;script&gt;", "&lt;script&gt;"),
        ("<o:p>x</o:p>", "x"),
        ("<p>a</p><noscript><p>Open <b>me</b></p></noscript>", "<p>a</p> <p>Open <b>me</b></p> "),
        ("<NOSCRIPT\n>a &amp; <b>b</b>", " a &amp; <b>b</b>"),
        ('<textarea title="a>b" c"d>e<i>f</i></textarea>g', " e<i>f</i> g"),
        ("<xmp>a\n<b>b</b></xmp>c", "<pre>a\n<b>b</b></pre>c"),
        ("<plaintext>a\n<b>b</b>", "<pre>a\n<b>b</b></pre>"),
        ("<xmp>a &nbsp; b</xmp>", "<pre>a &nbsp; b</pre>"),
        ("<noembed><b>x</b></noembed><noframes><b>x</b></noframes><iframe><b>x</b></iframe>y", "y"),
        ("<title><b>x</b></title><math><mi><xmp><b>x</b></xmp></mi></math>y", "y"),
        ("<nosc<noscript>ript>&lt;<b>x</b>", "&lt;<b>x</b>"),
        ("&lt;<scr<noscript>ipt>x</scr</noscript>ipt>", "&lt;x"),
        (
            '&lt;<noscript><p title="</noscript><img src=x onerror=y>">',
            '&lt; <p title=" &lt;img src=x onerror=y&gt;"></p>',
        ),
        ("&lt;<style><noscript></style><img src=x onerror=y></noscript>", "&lt;<img> "),
        ("&lt;<textarea><noscript></textarea><img src=x onerror=y></noscript>", "&lt;   <img> "),
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

    monkeypatch.setattr(sanitize, "_CLEANER", Cleaner())
    with pytest.raises(ValueError, match="panicked"):
        sanitise("x")


@pytest.mark.parametrize(
    "element",
    ["noscript", "textarea", "xmp", "plaintext", "noembed", "noframes", "iframe", "title", "style", "script"],
)
@pytest.mark.parametrize(
    "inside", ["{}", "<table>{}</table>", "<svg>{}</svg>", "<math><mi>{}</mi></math>", "<p title='{}'>", "<!--{}-->x"]
)
def test_no_element_shows_source_or_hides_a_script(element: str, inside: str) -> None:
    content = "<b>me</b><img src=x onerror=alert(1)><script>alert(1)</script>"
    for end in ("", f"</{element}>"):
        sanitize = sanitise("&lt;" + inside.format(f"<{element}>{content}{end}after"))
        # What a browser makes of what came out is what was meant.
        assert sanitise(sanitize) == sanitize
        assert "<script" not in sanitize
        text = re.sub(r"<[^>]*>", "", re.sub(r'"[^"]*"', "", sanitize))
        assert "onerror" not in text
