"""A row that PostgreSQL refuses is set aside, and its batch is stored without it."""

from collections.abc import Iterator

import psycopg2
import pytest

from native.postgres import libpq
from tasks.storage.accounts.rows import Account
from tests.conftest import Database, sync
from tests.support.mailbox import Mailbox, message
from tests.support.stored import assert_counts_agree, quarantine, stored_uids


@pytest.fixture
def picky(database: Database) -> Iterator[None]:
    """A database that raises a data exception (22) for certain rows: no message is known that makes it do so."""
    connection = psycopg2.connect(libpq(database.owner_url))
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '22P05'; END $$;"
            "CREATE TRIGGER picky BEFORE INSERT ON email_message FOR EACH ROW "
            "WHEN (NEW.subject LIKE 'refuse %') EXECUTE FUNCTION refuse()"
        )
    yield
    connection.close()


def test_only_the_rows_that_are_refused_are_set_aside(account: Account, mailbox: Mailbox, picky: None) -> None:
    mailbox.append(message(n, subject=f"refuse {n}" if n in {1, 7, 8} else f"take {n}") for n in range(1, 12))

    tally = sync(account)

    assert stored_uids() == [2, 3, 4, 5, 6, 9, 10, 11]
    assert quarantine() == {1: "unstorable", 7: "unstorable", 8: "unstorable"}
    assert (tally.total("synced"), tally.total("quarantined")) == (8, 3)
    assert_counts_agree()
