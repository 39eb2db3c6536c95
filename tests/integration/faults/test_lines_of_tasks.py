"""The log of a real worker says of each line of a task which task it is, whose, and of which account and folder."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from native.logs import _fields_of
from tasks.log_fields import Field
from tests.conftest import TENANT, USER, register
from tests.integration.faults.conftest import APP, Queue
from tests.support.imap_faults import before
from tests.support.imap_server import BASIC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import column
from tests.support.worker import Worker, wait_until

MAIN, CHILD = r"MainProcess\]", r"ForkPoolWorker-\d+\]"


def lines_with(log: Path, pattern: str) -> list[dict[str, str]]:
    """The fields of each line that has this pattern."""
    return [_fields_of(line) for line in log.read_text().splitlines() if re.search(pattern, line)]


def test_each_line_of_a_task_has_its_fields(
    environment: Callable[..., None], short_waits: None, tasks_queue: Queue, tmp_path: Path
) -> None:
    environment(TASK_TIMEOUT="4", CELERY_TASK_SOFT_TIME_LIMIT="3", TASK_MAX_REDELIVERIES="1")
    with ImapServer(BASIC) as server, Worker(tmp_path, app=APP) as worker:
        server.inbox.append(message(1))
        server.on("UID FETCH", before(b"* ; hello ann@mail.example\r\n"), times=1)
        account = register(server)
        # When a sync succeeds, another fails, and a task is killed because it takes too long
        done = tasks_queue.sync(account)
        assert done.get(timeout=60)["status"] == "success"
        server.password = "changed"
        failed = tasks_queue.sync(account)
        with pytest.raises(Exception, match="refuses a user name and password"):
            failed.get(timeout=60)
        killed = tasks_queue.app.send_task("test.fault", (TENANT, USER, str(tmp_path), "hang", ""), queue="sync")

        # Then their lines name the task and the account, in both processes
        for task, outcome in ((done, "succeeded in"), (failed, "raised unexpected")):
            named = {
                Field.TASK: "sync_emails",
                Field.TASK_ID: task.id,
                Field.TENANT: TENANT,
                Field.ACCOUNT: account.id,
            }
            [begun] = lines_with(worker.log, rf"{MAIN} Task .*{task.id}\] received")
            assert begun == named
            line = rf"{CHILD} Task .*{task.id}\] {outcome}"
            wait_until(partial(lines_with, worker.log, line), line)
            [ended] = lines_with(worker.log, line)
            assert 0 < float(ended.pop(Field.DURATION)) < 60
            assert ended == named
        # and the folder where there is one, but no address
        [said] = lines_with(worker.log, "a line that is no answer")
        assert said == {**named, Field.TASK_ID: done.id, Field.FOLDER: column("SELECT id FROM email_folder")[0]}
        assert "hello" in worker.log.read_text()
        assert "ann@" not in worker.log.read_text()
        # and so do the lines about a task whose process cannot say more.
        named = {Field.TASK: "fault", Field.TASK_ID: killed.id, Field.TENANT: TENANT}
        for limit in ("Soft", "Hard"):
            line = f"{MAIN} {limit} time limit"
            wait_until(partial(lines_with, worker.log, line), line)
            assert lines_with(worker.log, line)[0] == named
