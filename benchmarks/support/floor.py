"""What a first sync comes to when all but three parts of it cost nothing: receive, make HTML safe, insert the rows.

The three run at once, each in a process of its own and with one connection, as fast as the machine lets them; the
rows go into the tables as they are. All else (finding the parts, decoding, hashing, making rows) is done before.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

from sqlalchemy import create_engine

from benchmarks.support import peers
from benchmarks.support.stack import TENANT, USER, Stack
from native.postgres import OWNER

# A table of COPY, its columns, and the rows in their wire form.
Copy = tuple[str, Sequence[str], list[Sequence[bytes]]]


def floor(stack: Stack, user: str, count: int) -> float:
    """Seconds for the mailbox of this user, of `count` messages."""
    html = _html(stack, user)
    with stack.database():
        copies = _copies(stack, user)
        owner = create_engine(stack.postgres.url(OWNER, os.environ["DATABASE_URL"].rpartition("/")[2]))
        with owner.begin() as connection:
            connection.exec_driver_sql("TRUNCATE email_message, email_attachment, blob CASCADE")
        owner.dispose()
        return _at_once(
            lambda: peers.raw_stream(stack.dovecot, user, count), lambda: _sanitise(html), lambda: _insert(copies)
        )


def _html(stack: Stack, user: str) -> list[str]:
    """What is to be made safe."""
    from tasks.mail.parse import bodies
    from tasks.mail.parse.message import parse

    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    with patch.object(bodies, "sanitise", keep):
        for path in (stack.maildir(user) / "cur").iterdir():
            parse(path.read_bytes())
    return found


def _copies(stack: Stack, user: str) -> list[Copy]:
    """What a sync inserts, after one in this process."""
    from tasks.engine.run import Tally
    from tasks.engine.sync.account import SyncRequest, sync_account
    from tasks.storage import copy

    kept: list[Copy] = []
    insert = copy.copy_into

    def keep(connection: object, table: str, columns: Sequence[str], rows: Sequence[Sequence[bytes]]) -> None:
        kept.append((table, columns, list(rows)))
        insert(connection, *kept[-1])  # type: ignore[arg-type]  # passed on as it came

    request = SyncRequest(stack.add_account(user), TENANT, USER, None, None)
    with patch.object(copy, "copy_into", keep):
        sync_account(request, "floor", Tally(), 3600, lambda *_: None)
    return kept


def _sanitise(texts: list[str]) -> None:
    from tasks.mail.parse.html.sanitize import sanitise

    for text in texts:
        sanitise(text)


def _insert(copies: list[Copy]) -> None:
    from tasks.storage.copy import copy_into
    from tasks.storage.session import tenant_transaction

    for table, columns, rows in copies:
        with tenant_transaction(TENANT, durable=False) as connection:
            copy_into(connection, table, columns, rows)


def _at_once(*works: Callable[[], object]) -> float:
    context = multiprocessing.get_context("fork")
    started = context.Barrier(len(works) + 1)

    def begin(work: Callable[[], object]) -> None:
        started.wait()
        work()

    processes = [context.Process(target=begin, args=(work,)) for work in works]
    for process in processes:
        process.start()
    started.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("the floor could not be measured")
    return time.perf_counter() - began
