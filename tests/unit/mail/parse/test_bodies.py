"""Beside the fixtures: what RFC 8621 section 4.1.4 makes of the structure in its own example."""

from tasks.mail.parse.bodies import bodies
from tasks.mail.parse.mime import Part


def leaf(name: str, mime_type: str, disposition: str = "", filename: str | None = None) -> Part:
    return Part(mime_type, "utf-8", disposition, filename, None, name.encode(), None)


def container(subtype: str, *parts: Part) -> Part:
    return Part(f"multipart/{subtype}", None, "", None, None, b"", list(parts))


def test_example_of_the_rfc() -> None:
    root = container(
        "mixed",
        leaf("A", "text/plain", "inline"),
        container(
            "mixed",
            container(
                "alternative",
                container(
                    "mixed",
                    leaf("B", "text/plain", "inline"),
                    leaf("C", "image/jpeg", "inline"),
                    leaf("D", "text/plain", "inline"),
                ),
                container("related", leaf("E", "text/html"), leaf("F", "image/jpeg")),
            ),
            leaf("G", "image/jpeg", "attachment"),
            leaf("H", "application/x-excel"),
            leaf("J", "message/rfc822"),
        ),
        leaf("K", "text/plain", "inline"),
    )
    found = bodies(root)
    # textBody is A, B, C, D, K; htmlBody is A, E, K; attachments are C, F, G, H, J.
    assert found.text == "A\nB\nD\nK"
    assert found.html is not None
    assert [letter for letter in found.html if letter in "ABCDEFGHJK"] == ["A", "E", "K"]
    assert [attachment.content.decode() for attachment in found.attachments] == ["C", "F", "G", "H", "J"]


def test_html_after_text_in_one_message_holds_both() -> None:
    found = bodies(container("mixed", leaf("1 < 2", "text/plain"), leaf("<p>x</p>", "text/html")))
    assert found.text == "1 < 2"
    assert found.html == '<div style="white-space:pre-wrap">1 &lt; 2</div>\n<p>x</p>'


def test_empty_container_has_no_body() -> None:
    assert bodies(container("mixed")) == (None, None, ())


def test_image_of_a_style_is_inline() -> None:
    html = leaf("<p style=\"background-image:url('cid:a%20b&amp;c')\">x</p>", "text/html")
    image = leaf("I", "image/png")._replace(content_id="a b&c")
    assert [attachment.is_inline for attachment in bodies(container("related", html, image)).attachments] == [True]
