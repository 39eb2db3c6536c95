"""What workers of an older release store beside newer ones, and what an older parser made of real messages."""

from collections.abc import Callable

import pytest

from tasks.engine import parsing
from tasks.mail.message import PARSER_VERSION, ParsedMessage
from tasks.mail.parse.message import parse
from tasks.storage import wire
from tasks.storage.accounts.rows import Account
from tasks.storage.messages import arrivals, batch
from tests.conftest import sync
from tests.integration.reread.conftest import DERIVED, KEPT, ask, reread, table
from tests.integration.reread.test_reread import attachments, with_files
from tests.support.mailbox import Mailbox, message
from tests.support.stored import column


def test_a_worker_that_does_not_know_the_column_stores_what_the_first_parser_read(
    account: Account, mailbox: Mailbox, misread: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the rows and columns of the release before, beside those of this one
    with monkeypatch.context() as before:
        columns = tuple(name for name in batch._MESSAGE_COLUMNS if name != "parser_version")
        before.setattr(batch, "_MESSAGE_COLUMNS", columns)
        before.setattr(arrivals, "_PARSER_VERSION", b"")
        mailbox.append([message(1)])
        sync(account)
    mailbox.append([message(2)])
    sync(account)

    assert column("SELECT parser_version FROM email_message ORDER BY imap_uid") == [1, PARSER_VERSION]
    misread("false")
    assert ask(account).messages == 1
    assert reread(account).read == 1
    assert column("SELECT DISTINCT parser_version FROM email_message") == [PARSER_VERSION]


def test_what_an_older_parser_made_of_messages_comes_out_as_if_they_had_just_arrived(
    account: Account, mailbox: Mailbox, misread: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synced twice: by a parser that takes the header for the body and sees few of the files, and by this one."""
    mail = [with_files(n, a=b"a%d" % n, b=b"b", c=b"c") for n in (1, 2)] + [message(3, References="<1@example.org>")]

    def read_wrong(raw: bytes) -> ParsedMessage:
        return parse(b"X: y\r\n\r\nall of it")._replace(attachments=parse(raw).attachments[1:2])

    mailbox.append(mail, received=1_772_445_600)
    with monkeypatch.context() as before:
        before.setattr(parsing, "parse", read_wrong)
        before.setattr(arrivals, "_PARSER_VERSION", wire.smallint(1))
        sync(account)
    kept = table(KEPT)
    assert column("SELECT count(message_id) FROM email_message") == [0]
    (of_b, *_) = column("SELECT id FROM email_attachment WHERE filename = 'b.pdf' ORDER BY email_message_id")
    misread("false")

    ask(account)
    assert reread(account).read == 3

    mailbox.append(mail, received=1_772_445_600)
    sync(account)
    twins = sorted(table(("imap_uid", "conversation_id", *DERIVED)).values())
    assert [row[1:] for row in twins[:3]] == [row[1:] for row in twins[3:]]
    of_files = column("SELECT id FROM email_attachment WHERE filename = 'b.pdf' ORDER BY email_message_id")
    assert of_b in of_files
    by_message: dict[object, list[object]] = {}
    for email_message_id, *rest in attachments():
        by_message.setdefault(email_message_id, []).append((rest[0], *rest[2:]))
    files = list(by_message.values())
    assert files[:2] == files[2:]
    # All but the conversations, which nobody could rely on before, stayed.
    place = KEPT.index("conversation_id")
    for message_id, row in kept.items():
        now = table(KEPT)[message_id]
        assert now[:place] + now[place + 1 :] == row[:place] + row[place + 1 :]
