"""Messages that an older parser read wrong, and what a test asks about them."""

from collections.abc import Callable

import psycopg2
import pytest

from native.postgres import libpq
from tasks.engine.reread import Reread, RereadRequest, reread_account
from tasks.storage.accounts.rows import Account
from tasks.storage.messages import rereading
from tasks.storage.messages.rereading import Asked
from tests.conftest import Database
from tests.support.stored import rows

# What of a message's row has to come out as if it had just arrived, and what has to stay.
DERIVED = (
    "message_id", "from_addresses", "to_addresses", "cc_addresses", "bcc_addresses", "reply_to_addresses", "subject",
    "text_body", "html_body", "headers", "sent_at", "attachment_count", "size", "spam_score", "spam_indicators",
    "parser_version",
)  # fmt: skip
KEPT = (
    "id", "tenant_id", "email_client_id", "folder_id", "uidvalidity", "imap_uid", "uidl", "conversation_id",
    "received_at", "filed_at", "is_read", "is_starred", "is_spam", "is_not_spam", "is_draft", "is_sent", "is_deleted",
    "labels",
)  # fmt: skip

# As an older parser might have read them: nothing of it right, but for what identifies the message.
MISREAD = """
    UPDATE email_message SET
      from_addresses = '[{"name": "x", "address": "x"}]', to_addresses = '[]',
      cc_addresses = '[{"name": "", "address": "c"}]',
      bcc_addresses = '[{"name": "", "address": "b"}]', reply_to_addresses = '[{"name": "", "address": "r"}]',
      subject = 'Ã¤', text_body = 'Ã¶', html_body = '<p>Ã¼</p>', headers = '{"Nothing": ["right"]}',
      sent_at = '2001-01-01', attachment_count = 9, spam_score = 1, spam_indicators = '[{"rule": "misread"}]',
      parser_version = 1
    """


def as_owner(database: Database, statement: str, *values: object) -> None:
    """Change rows of any tenant behind the application's back."""
    connection = psycopg2.connect(libpq(database.owner_url))
    connection.autocommit = True
    connection.cursor().execute(statement, values or None)
    connection.close()


@pytest.fixture
def misread(database: Database) -> Callable[..., None]:
    """Makes the stored messages (or those that a condition names) look as an older parser read them.

    The accounts' next syncs are far off, so that none is due meanwhile.
    """

    def spoil(where: str = "true", more: str = "") -> None:
        as_owner(database, f"{MISREAD} {more} WHERE {where}")
        as_owner(database, "UPDATE email_client SET next_sync_at = now() + interval '1 hour', sync_queued_at = NULL")

    return spoil


def ask(account: Account, **options: object) -> Asked:
    """Ask for all that an older parser read, as `./manage.sh reread` does."""
    from tasks.mail.message import PARSER_VERSION

    return rereading.ask(account, **{"older_than": PARSER_VERSION, **options})


def reread(account: Account, *, others_wait: Callable[[], bool] = lambda: False) -> Reread:
    """Read again in this process what was asked for, in one run."""
    request = RereadRequest(account.id, account.tenant_id, account.user_id)
    return reread_account(request, "test", others_wait)


def table(columns: tuple[str, ...]) -> dict[str, tuple[object, ...]]:
    """The columns of all messages, by id."""
    return {str(row[0]): row[1:] for row in rows(f"SELECT id, {', '.join(columns)} FROM email_message")}


def outcomes() -> dict[str, object]:
    """What came of the messages that were asked for and are not read again: the outcome (None: they wait) by id."""
    return dict(rows("SELECT email_message_id, outcome FROM rereading"))


def a_new_hour(database: Database) -> None:
    """As if an hour had passed since messages were last read again."""
    as_owner(database, "UPDATE email_client SET reread_at = reread_at - interval '1 hour 1 second'")


def a_new_release(database: Database) -> None:
    """As if all accounts came from a release whose parser was the first."""
    as_owner(database, "UPDATE email_client SET reread_version = 1, reread_again_at = NULL")


def a_day_later(database: Database) -> None:
    """As if a day had passed since what older parsers read was asked for."""
    as_owner(database, "UPDATE email_client SET reread_again_at = reread_again_at - interval '1 day 1 second'")
