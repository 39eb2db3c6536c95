"""Names and purposes of folders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.mail.imap.folders import ListedFolder, classify, decode_name, encode_name, quote

NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))


def listed(path: str, *attributes: str, delimiter: str | None = "/") -> ListedFolder:
    return ListedFolder(encode_name(path), delimiter, frozenset(attributes))


@given(NAMES)
def test_any_name_survives_modified_utf_7(name: str) -> None:
    encoded = encode_name(name)

    assert all(" " <= character <= "~" for character in encoded)
    assert decode_name(encoded) == name


@given(st.text() | st.text("&-,ABab+/= "))
def test_whatever_a_server_writes_becomes_a_name_that_leads_back_to_it(path: str) -> None:
    name = decode_name(path)

    assert name == path or encode_name(name) == path


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),  # RFC 3501 section 5.1.3
        ("Entwürfe", "Entw&APw-rfe"),
        ("R&D", "R&-D"),
        ("😀", "&2D3eAA-"),
    ],
)
def test_names_are_written_as_the_standard_does(name: str, encoded: str) -> None:
    assert encode_name(name) == encoded
    assert decode_name(encoded) == name


@pytest.mark.parametrize("path", ["&", "A&B", "&A-", "&!!-", "&2AA-", "&AGE-", "&AAA-", "Entwürfe"])
def test_a_name_that_is_not_canonical_is_shown_as_it_is(path: str) -> None:
    assert decode_name(path) == path


def test_what_the_server_says_goes_before_what_a_name_suggests() -> None:
    types = classify([listed("INBOX"), listed("Sent"), listed("Verschickt", "\\sent"), listed("Papierkorb")])

    assert types == {"INBOX": "inbox", "Sent": "custom", "Verschickt": "sent", "Papierkorb": "trash"}


@pytest.mark.parametrize(
    ("path", "delimiter", "kind"),
    [
        ("inbox", "/", "inbox"),
        ("Sent Items", "/", "sent"),
        ("INBOX.Drafts", ".", "drafts"),
        ("[Gmail]/Spam", "/", "spam"),
        ("Корзина", "/", "trash"),
        ("送信済みメール", None, "sent"),
        ("Archive", "/", "archive"),
        ("Projects/Sent", "/", "custom"),
        ("Sentinel", "/", "custom"),
    ],
)
def test_a_name_tells_the_purpose_where_the_server_does_not(path: str, delimiter: str | None, kind: str) -> None:
    folder = listed(path, delimiter=delimiter)

    assert classify([folder]) == {folder.path: kind}


def test_only_one_folder_gets_a_purpose_by_its_name() -> None:
    types = classify([listed("Trash"), listed("Deleted Items"), listed("Papierkorb")])

    assert sorted(types.values()) == ["custom", "custom", "trash"]


def test_views_of_other_folders_and_unselectable_ones_have_no_purpose() -> None:
    everything, starred = listed("[Gmail]/All Mail", "\\all"), listed("[Gmail]/Starred", "\\flagged")
    parent = listed("Archive", "\\noselect")

    assert set(classify([everything, starred, parent]).values()) == {"custom"}
    assert not parent.is_selectable
    assert everything.is_selectable


@given(st.text())
def test_a_quoted_name_can_be_read_back_or_is_refused(path: str) -> None:
    if set(path) & set("\r\n\0"):
        with pytest.raises(ValueError):
            quote(path)
    else:
        quoted = quote(path)
        assert quoted[0] == quoted[-1] == '"'
        assert quoted[1:-1].replace('\\"', '"').replace("\\\\", "\\") == path or "\\" in path
