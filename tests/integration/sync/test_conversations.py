"""Conversations as they end up in PostgreSQL, whatever the order of arrival."""

from sqlalchemy import text

from tasks.storage.accounts.rows import Account
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, sync
from tests.support.mailbox import Mailbox, message


def conversations() -> list[set[str]]:
    """Subjects that share a conversation."""
    query = text(
        "SELECT array_agg(subject) FROM email_message GROUP BY coalesce(conversation_id, id) ORDER BY min(subject)"
    )
    with tenant_transaction(TENANT) as connection:
        return [set(subjects) for subjects in connection.scalars(query)]


def reply(number: int, *ancestors: int) -> bytes:
    """A message that names its ancestors from the root to the parent."""
    references = " ".join(f"<{ancestor}@example.org>" for ancestor in ancestors)
    return message(number, References=references, In_Reply_To=references.split()[-1])


def test_a_reply_joins_its_parent_from_an_earlier_sync(account: Account, mailbox: Mailbox) -> None:
    mailbox.append([message(1), message(2)])
    sync(account)
    mailbox.append([reply(3, 1)])
    sync(account)
    assert conversations() == [{"Message 1", "Message 3"}, {"Message 2"}]


def test_a_parent_that_arrives_late_brings_its_replies_along(account: Account, mailbox: Mailbox) -> None:
    # Given replies that name only their parent, 2, which itself answers 1
    mailbox.append([reply(3, 2), reply(4, 2)])
    sync(account)
    mailbox.append([message(1)])
    sync(account)
    assert conversations() == [{"Message 1"}, {"Message 3", "Message 4"}]

    mailbox.append([reply(2, 1)])
    sync(account)

    assert conversations() == [{"Message 1", "Message 2", "Message 3", "Message 4"}]


def test_the_same_subject_alone_joins_nothing(account: Account, mailbox: Mailbox) -> None:
    mailbox.append([message(1, subject="Re: Hello"), message(2, subject="Re: Hello")])
    sync(account)
    assert len(conversations()) == 2
