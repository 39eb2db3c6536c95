"""RENAME of INBOX (RFC 9051 section 6.3.6): its messages go to the new name, and INBOX stays.

Scripted: Dovecot and Courier refuse it, and Debian's Cyrus 3.6.1 ends at it.
"""

import pytest

from tests.conftest import Database, register, sync
from tests.support.imap_server import BASIC, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import assert_counts_agree, rows


@pytest.mark.parametrize("capabilities", [BASIC, QRESYNC], ids=["nothing", "qresync"])
@pytest.mark.parametrize("inbox_is_new", [True, False], ids=["INBOX made anew", "INBOX emptied"])
def test_no_message_is_lost_or_stored_twice(database: Database, capabilities: str, inbox_is_new: bool) -> None:
    with ImapServer(capabilities) as server:
        server.inbox.append(*(message(n) for n in range(1, 6)))
        account = register(server)
        sync(account)
        before = dict(rows("SELECT message_id, id FROM email_message"))
        old = server.add_folder("Old", uidvalidity=1 if inbox_is_new else 2)
        old.append(*(server.inbox.messages[uid].raw for uid in server.inbox.uids))
        if inbox_is_new:
            server.add_folder("INBOX", uidvalidity=2)
        else:
            server.inbox.expunge(*list(server.inbox.uids))
        server.inbox.append(message(6), uid=1 if inbox_is_new else 6)

        sync(account)

        assert rows(
            "SELECT folder.name, folder.type, count(*) FROM email_message "
            "JOIN email_folder AS folder ON folder.id = folder_id GROUP BY 1, 2 ORDER BY 1"
        ) == [("INBOX", "inbox", 1), ("Old", "custom", 5)]
        after = dict(rows("SELECT message_id, id FROM email_message"))
        if inbox_is_new:
            assert before.items() <= after.items()
        assert_counts_agree()
        assert sync(account).done == 0
