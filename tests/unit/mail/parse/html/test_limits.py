import re

from tasks.mail.parse.html.limits import bounded
from tasks.mail.parse.html.sanitize import sanitise

PADDING = "<p>x</p>" * 3000


def depth(html: str) -> int:
    deepest = level = 0
    for close in re.findall(r"<(/?)div", html):
        level += -1 if close else 1
        deepest = max(deepest, level)
    return deepest


def test_small_html_is_left_alone() -> None:
    html = "<b><i></b></i><a" + " x" * 1000
    assert bounded(html) is html


def test_large_ordinary_html_shows_the_same() -> None:
    html = '<table class="a"><tbody><tr><td>a &amp; b &lt; c</td></tr></tbody></table><br>é "q" \'r\'' * 2000
    assert len(html) > 100_000
    assert sanitise(bounded(html)) == sanitise(html)


def test_text_below_the_greatest_depth_stays() -> None:
    html = bounded("<div>a" * 10_000 + "</div>b" * 10_000)
    assert depth(html) == 256
    assert html.count("a") == html.count("b") == 10_000


def test_ignored_end_tags_do_not_hide_the_depth() -> None:
    for html in ("<div></x>" * 6000, "<x><div></x>" * 6000, "<x><div></x></div>" * 6000):
        assert depth(bounded(html)) <= 256


def test_attributes_beyond_the_first_are_dropped() -> None:
    html = bounded(PADDING + "<a " + " ".join(f"x{i}=1" for i in range(1000)) + ">end</a>")
    assert html.count("=1") == 64
    assert html.endswith(">end</a>")


def test_text_with_too_many_references_stays() -> None:
    html = bounded("a&amp;b&nbsp;" * 60_000)
    assert sanitise(html).count("a") >= 60_000
    assert html.count("&") <= 50_000 or "\uff06" in html


def test_hidden_content_is_dropped_and_no_tag_begins_in_it() -> None:
    html = bounded(PADDING + "<!-- <a b=\" --><STYLE>p<b></STYLE ><textarea><b>t</b></textarea><i title='<u>'>")
    assert html.removeprefix(PADDING).strip() == "<b>t</b> <i title='&lt;u>'>"
