"""The first of two batches is removed for good, and the server dies; a dead letter may keep that for long.

The server dies by a patch: no real one can be told to between two batches.
"""

import itertools
from collections.abc import Callable

import pytest

from tasks.delete import delete_emails
from tasks.errors import MailServerUnavailableError, NotFoundError
from tasks.mail.imap import removal
from tasks.mail.imap.commands import ImapConnection
from tasks.mail.imap.uidset import UidSet
from tasks.storage.dead_letters import Failure, bury
from tests.conftest import TENANT, USER, Database, register, sync
from tests.integration.delete.conftest import ids_of
from tests.support.mailbox import Mailbox, message
from tests.support.stored import column, rows

# The level makes no difference.
pytestmark = pytest.mark.parametrize("mailbox", ["MOVE and UIDPLUS"], indirect=True)


@pytest.fixture
def ids(
    database: Database,
    mailbox: Mailbox,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    mailbox.append(message(n) for n in range(1, 9))
    sync(register(mailbox))
    environment(DELETE_BATCH_SIZE="2", DEAD_LETTER_RETENTION_DAYS="3")
    ids = ids_of(1, 2, 3, 4)
    remove, batches = removal.remove, itertools.count()

    def remove_once(imap: ImapConnection, uids: UidSet) -> None:
        if next(batches):
            raise MailServerUnavailableError("down")
        remove(imap, uids)

    with monkeypatch.context() as patch:
        patch.setattr(removal, "remove", remove_once)
        with pytest.raises(MailServerUnavailableError):
            delete_emails.run(ids, TENANT, USER, True)
    assert mailbox.uids() == [3, 4, 5, 6, 7, 8]
    return ids


def test_the_same_call_goes_on_under_whatever_id(ids: list[str], mailbox: Mailbox) -> None:
    for task_id in ("first", "second", "once more, when all is done"):
        delete_emails.push_request(id=task_id)
        try:
            result = delete_emails.run(email_ids=ids, tenant_id=TENANT, user_id=USER, permanent=True)
        finally:
            delete_emails.pop_request()
        assert result == {"status": "success", "deleted_count": 4, "marked_count": 0}
        assert mailbox.uids() == [5, 6, 7, 8]


def test_a_worker_of_the_release_before_knows_it_by_the_id(ids: list[str], mailbox: Mailbox) -> None:
    # Given notes under an id alone, as that one makes them
    rows("WITH noted AS (UPDATE deletion SET task_id = 'task', task_key = 'task' RETURNING 1) SELECT * FROM noted")
    delete_emails.push_request(id="task")
    try:
        assert delete_emails.run(ids, TENANT, USER, True)["deleted_count"] == 4
    finally:
        delete_emails.pop_request()
    # and what we note, it finds there
    assert column("SELECT count(*) FROM deletion WHERE task_id = 'task'") == [4]


def test_another_call_is_told_what_is_gone(ids: list[str], mailbox: Mailbox) -> None:
    for call in ((ids, TENANT, USER, False), (ids[:3], TENANT, USER, True), (ids, TENANT, "user-2", True)):
        with pytest.raises(NotFoundError):
            delete_emails.run(*call)
    assert mailbox.uids() == [3, 4, 5, 6, 7, 8]


def test_it_is_remembered_as_long_as_dead_letters_are(ids: list[str], mailbox: Mailbox) -> None:
    age_notes(hours=3 * 24 + 23)
    delete_emails.run(ids, TENANT, USER, True)
    assert mailbox.uids() == [5, 6, 7, 8]
    age_notes(hours=2)
    with pytest.raises(NotFoundError):
        delete_emails.run(ids, TENANT, USER, True)


def test_what_a_dead_letter_needs_is_not_forgotten_before_it(ids: list[str], mailbox: Mailbox) -> None:
    call = (ids, TENANT, USER, True)
    key = delete_emails._key(call, {})
    bury(TENANT, Failure(key, delete_emails.name, "another id", USER, {}, "not_found", "gone", "", 1), call, {})
    age_notes(hours=30 * 24)  # it has failed again since
    delete_emails.run(*call)
    assert mailbox.uids() == [5, 6, 7, 8]


def age_notes(*, hours: int) -> None:
    rows(
        "WITH aged AS (UPDATE deletion SET created_at = created_at - make_interval(hours => :hours) RETURNING 1) "
        "SELECT * FROM aged",
        hours=hours,
    )
