"""Folders that change names among themselves, on Dovecot, Cyrus and Courier: rows go with their folder.

Cyrus makes UIDVALIDITY of the second in which a folder is made and keeps it on RENAME, so that two folders made in
one second cannot be told apart by it; Courier gives a folder that is renamed another one.
"""

import time
from collections.abc import Callable

import pytest

from tasks.storage.accounts.rows import Account
from tests.conftest import sync
from tests.integration.delete.conftest import Delete, delete
from tests.support.mailbox import Mailbox, message
from tests.support.stored import assert_counts_agree, rows

__all__ = ["delete"]

Shelves = dict[str, list[str]]

_MESSAGES = 3


def fill(mailbox: Mailbox, *folders: str) -> None:
    """Folders made in one second, each with messages that say in which they were."""
    for folder in folders:
        mailbox.create(folder)
    for folder in folders:
        put(mailbox, folder, folder)


def put(mailbox: Mailbox, folder: str, label: str) -> None:
    key = label.replace("/", "-")
    mailbox.append(
        (message(n, subject=f"{label} {n}", Message_ID=f"<{key}.{n}@example.org>") for n in range(_MESSAGES)), folder
    )


def shelves() -> Shelves:
    """The subjects in each folder that has messages, as they are stored."""
    found: Shelves = {}
    for name, subject in rows(
        "SELECT folder.name, subject FROM email_message JOIN email_folder AS folder ON folder.id = folder_id "
        "ORDER BY folder.name, imap_uid"
    ):
        found.setdefault(str(name), []).append(str(subject))
    return found


def ids() -> dict[object, object]:
    return dict(rows("SELECT subject, id FROM email_message"))


def on_server(mailbox: Mailbox, *folders: str) -> Shelves:
    return {mailbox.name(folder): found for folder in folders if (found := mailbox.subjects(folder))}


def swap(mailbox: Mailbox) -> None:
    mailbox.rename("Alpha", "Between")
    mailbox.rename("Beta", "Alpha")
    mailbox.rename("Between", "Beta")


def circle(mailbox: Mailbox) -> None:
    mailbox.rename("Alpha", "Between")
    mailbox.rename("Beta", "Alpha")
    mailbox.rename("Gamma", "Beta")
    mailbox.rename("Between", "Gamma")


def over_one_that_is_gone(mailbox: Mailbox) -> None:
    mailbox.remove("Alpha")
    mailbox.rename("Beta", "Alpha")


def along(mailbox: Mailbox) -> None:
    mailbox.rename("Beta", "Delta")
    mailbox.rename("Alpha", "Beta")


def to_leave_its_name_to_another(mailbox: Mailbox) -> None:
    mailbox.rename("Beta", "Aaa")
    mailbox.create("Beta")


def by_case_alone(mailbox: Mailbox) -> None:
    mailbox.rename("Alpha", "alpha")


# What is done to the folders, and those that there are afterwards.
CHANGES: list[tuple[Callable[[Mailbox], None], tuple[str, ...]]] = [
    (swap, ("Alpha", "Beta")),
    (circle, ("Alpha", "Beta", "Gamma")),
    (over_one_that_is_gone, ("Alpha",)),
    (along, ("Beta", "Delta")),
    (to_leave_its_name_to_another, ("Alpha", "Aaa", "Beta")),
    (by_case_alone, ("alpha", "Beta")),
]


# Courier sleeps for two seconds at each RENAME, and a MAILBOXID of Cyrus decides alike in all of them.
_SOME = (swap, circle, over_one_that_is_gone, to_leave_its_name_to_another)
CASES = [
    pytest.param(server, change, folders, id=f"{server}-{change.__name__}")
    for server in ("dovecot", "cyrus", "cyrus_without_ids", "courier")
    for change, folders in CHANGES
    if change in _SOME or server in ("dovecot", "cyrus_without_ids")
]


@pytest.mark.parametrize(("any_mailbox", "change", "folders"), CASES, indirect=["any_mailbox"])
def test_rows_go_with_their_folder(
    any_account: Account, any_mailbox: Mailbox, change: Callable[[Mailbox], None], folders: tuple[str, ...]
) -> None:
    # Given folders that were made in one second
    fill(any_mailbox, "Alpha", "Beta", "Gamma")
    sync(any_account)
    before = ids()

    change(any_mailbox)
    tally = sync(any_account)

    # Then each message is where the server has it, by the row that it had, and none was fetched again
    expected = on_server(any_mailbox, *{*folders, "Gamma"})
    assert shelves() == expected
    subjects = [subject for found in expected.values() for subject in found]
    assert ids() == {subject: before[subject] for subject in subjects}
    assert tally.total("synced") == 0
    assert_counts_agree()
    # and a second sync finds nothing to do
    assert sync(any_account).done == 0


@pytest.mark.parametrize("any_mailbox", ["cyrus", "cyrus_without_ids"], indirect=True)
def test_a_circle_of_which_two_were_made_in_one_second(any_account: Account, any_mailbox: Mailbox) -> None:
    fill(any_mailbox, "Alpha", "Beta")
    time.sleep(1.1)
    fill(any_mailbox, "Gamma")
    sync(any_account)
    before = ids()

    circle(any_mailbox)
    tally = sync(any_account)

    assert shelves() == on_server(any_mailbox, "Alpha", "Beta", "Gamma")
    assert (ids(), tally.total("synced")) == (before, 0)


def test_a_parent_is_renamed(any_account: Account, any_mailbox: Mailbox) -> None:
    fill(any_mailbox, "Alpha", "Alpha/One", "Alpha/Two")
    sync(any_account)
    before = ids()

    any_mailbox.rename("Alpha", "Beta")
    tally = sync(any_account)

    assert shelves() == on_server(any_mailbox, "Beta", "Beta/One", "Beta/Two")
    assert (ids(), tally.total("synced")) == (before, 0)


def test_a_delete_after_a_swap_removes_the_message_that_was_asked_for(
    any_account: Account, any_mailbox: Mailbox, delete: Delete
) -> None:
    fill(any_mailbox, "Alpha", "Beta")
    sync(any_account)
    wanted = str(ids()["Alpha 0"])

    # When the names are swapped, and no sync has seen it
    swap(any_mailbox)
    delete([wanted], permanent=True)

    # Then it is removed where it is now, and nothing else
    assert sorted(any_mailbox.subjects("Beta")) == [f"Alpha {n}" for n in range(1, _MESSAGES)]
    assert sorted(any_mailbox.subjects("Alpha")) == [f"Beta {n}" for n in range(_MESSAGES)]
    sync(any_account)
    assert shelves() == on_server(any_mailbox, "Alpha", "Beta")
    assert_counts_agree()
