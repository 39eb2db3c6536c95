"""Large and sparse folders in bounded memory. Scripted: no real server can be given any UID one likes."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tasks.engine.connect import connected
from tests.conftest import Database, register
from tests.integration.faults.conftest import Queue
from tests.support.imap_mailbox import HIGHEST_UID
from tests.support.imap_server import BASIC, QRESYNC, ImapServer
from tests.support.stored import assert_counts_agree, column
from tests.support.worker import Worker

MAX_MEMORY = 200 * 1024 * 1024


def tiny(number: int) -> bytes:
    return b"Message-ID: <%d@example.org>\r\nSubject: %d\r\n\r\nHello.\r\n" % (number, number)


@pytest.fixture
def server(database: Database) -> Iterator[ImapServer]:
    with ImapServer() as server:
        yield server


def fill_sparsely(server: ImapServer, messages: int) -> list[int]:
    """As many messages, spread over all the UIDs there can be."""
    step = HIGHEST_UID // messages
    uids = [HIGHEST_UID - step * number for number in range(messages)][::-1]
    for uid in uids:
        server.inbox.append(partial(tiny, uid), uid=uid)
    return uids


@pytest.mark.parametrize("capabilities", [BASIC, QRESYNC], ids=["basic", "qresync"])
def test_fifty_thousand_sparse_uids_are_synced_in_bounded_memory(
    server: ImapServer, environment: Callable[..., None], tasks_queue: Queue, tmp_path: Path, capabilities: str
) -> None:
    # Given 50,000 messages up to UID 2^32-1, most of which are stored already
    server.capabilities = capabilities
    uids = fill_sparsely(server, 50_000)
    environment(SYNC_BATCH_SIZE="1000", TASK_TIMEOUT="120", CELERY_TASK_SOFT_TIME_LIMIT="110", MAIL_TIMEOUT="20")
    environment(CELERY_VISIBILITY_TIMEOUT="130")
    account = register(server)

    with Worker(tmp_path) as worker:
        result = tasks_queue.sync(account).get(timeout=110)

        assert result["messages_synced"] == len(uids)
        assert worker.peak_memory() < MAX_MEMORY
        # and a sync that compares all of it takes no more
        assert tasks_queue.sync(account).get(timeout=180)["messages_updated"] == 0
        assert worker.peak_memory() < MAX_MEMORY
    assert column("SELECT imap_uid FROM email_message ORDER BY imap_uid") == uids
    assert_counts_agree()


@pytest.mark.parametrize("uidnext", [HIGHEST_UID, None], ids=["uidnext", "no uidnext"])
@pytest.mark.parametrize("capabilities", [BASIC, QRESYNC], ids=["basic", "qresync"])
def test_a_search_reads_no_line_longer_than_the_library_takes(
    server: ImapServer, capabilities: str, uidnext: int | None
) -> None:
    # Given 200,000 UIDs with gaps: two megabytes in one answer, and no two of them in one range
    server.capabilities = capabilities
    uids = fill_sparsely(server, 200_000)
    server.inbox.uidnext = uidnext

    with connected(register(server)) as imap:
        status = imap.select("INBOX")
        found = imap.search(1, status)
        newer = imap.search(uids[150_000], status)

    assert list(found.uids()) == uids
    assert list(newer.uids()) == uids[150_000:]
    assert len(server.commands("UID SEARCH")) <= 6
