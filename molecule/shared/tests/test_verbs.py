"""`metabuilder VERB` on a host: what looks at tasks, queues and workers, and what does something to them."""

import base64
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from testinfra.host import Host

from tests.support.site import Ended, RemoteMailbox, Site, main_pid, run_each, sql, wait_active
from tests.support.worker import wait_until

WORKER, POOL, BEAT = "celery-worker.service", "celery-worker@sending.service", "celery-beat.service"
LOOKS = (
    *(f"tasks {state}" for state in ("active", "reserved", "scheduled", "registered", "failed", "revoked")),
    *("worker:ping", "worker:info", "beat:status", "stats", "queue:status", "queue:list sync", "ps"),
    *("clean:redis", "clean:db"),  # what beat has done each hour
)
TASK = '--kwargs \'{"email_id": "none", "tenant_id": "verbs", "user_id": "none"}\''
# Runs `top` on a terminal of 80 columns until it shows both workers, and presses q. It ends after two minutes anyhow.
_TOP = """
import fcntl, json, os, pty, signal, struct, termios, threading
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.execvpe("metabuilder", ["metabuilder", "top"], {**os.environ, "TERM": "xterm-256color"})
seen, pressed = b"", False
threading.Timer(120, os.kill, (pid, signal.SIGTERM)).start()
while True:
    try:
        seen += os.read(terminal, 65536)
    except OSError:  # it has ended
        break
    if b"sending@one" in seen and not pressed:
        pressed = bool(os.write(terminal, b"q"))
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode(errors="replace")]), flush=True)
os._exit(0)
"""


@pytest.fixture
def one(site: Site) -> Host:
    if len(site.names) > 1:
        pytest.skip("covered by the scenario with one host")
    return site.host(site.names[0])


def run(host: Host, *verbs: str) -> list[Ended]:
    return run_each(host, [f"metabuilder {verb}" for verb in verbs])


def answer(host: Host, verb: str) -> Any:
    """The result of a verb for programs."""
    [ended] = run(host, f"{verb} --json")
    assert ended.status == 0, ended.stderr
    return json.loads(ended.stdout)


def test_what_looks_answers_programs(one: Host) -> None:
    """What it shows to people is looked at by test_troubleshooting.py."""
    done = dict(zip(LOOKS, run(one, *(f"{verb} --json" for verb in LOOKS)), strict=True))
    assert {verb: ended for verb, ended in done.items() if ended.status} == {}
    found = {verb: json.loads(ended.stdout) for verb, ended in done.items()}
    assert {one["worker"] for one in found["worker:ping"]} == {"worker@one", "sending@one"}
    assert found["ps"]
    assert found["beat:status"]
    assert found["tasks registered"]


def test_top_is_drawn_on_80_columns(one: Host) -> None:
    encoded = base64.b64encode(_TOP.encode()).decode()
    status, seen = json.loads(one.check_output(f"echo {encoded} | base64 -d | python3 -"))
    assert status == 0, seen
    frames = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen.replace("\r", "").replace("\x1b[H", "\n"))
    assert "sending@one" in frames
    assert max(map(len, frames.split("\n"))) <= 80


def test_psql_reads_and_writes_only_when_asked(one: Host) -> None:
    change = "-c 'CREATE TEMPORARY TABLE planted (n int)'"
    read, refused, written = run(one, "psql -At -c 'SELECT 40 + 2'", f"psql {change}", f"psql --write {change}")
    assert (read.status, read.stdout.strip()) == (0, "42")
    assert refused.status == 1
    assert "read-only transaction" in refused.stderr
    assert written.status == 0, written.stderr


def test_tasks_and_queues_are_changed_while_the_workers_are_drained(one: Host) -> None:
    done = answer(one, "task:run cleanup_stale_results --wait --timeout 300")
    assert done["result"]["status"] == "success"
    assert answer(one, f"task:status {done['task_id']}")["state"] == "SUCCESS"
    before = {unit: main_pid(one, unit) for unit in (WORKER, POOL)}

    drained, queued = run(one, "worker:drain", f"task:run check_spam {TASK} --json")

    try:
        assert drained.status == 0, drained.stderr
        assert {main_pid(one, unit) for unit in before} == {0}
        task = json.loads(queued.stdout)["task_id"]
        assert task in {message["id"] for message in answer(one, "queue:list spam")["messages"]}
        ended = run(
            one,
            "queue:flush spam --yes",
            f"task:run check_spam {TASK}",
            "task:purge spam --yes",
            "task:revoke --name check_spam --yes",
        )
        assert [each.status for each in ended] == [0] * 4, ended
        assert answer(one, "queue:list spam")["messages"] == []
        assert [each["name"] for each in answer(one, "tasks revoked")] == ["email_service.tasks.check_spam"]
    finally:
        lifted, up = run(one, "task:revoke --name check_spam --lift", "up worker")
    assert (lifted.status, up.status) == (0, 0), (lifted.stderr, up.stderr)
    for unit, pid in before.items():
        wait_active(one, unit, not_pid=pid)


def test_what_restarts_restarts_what_it_names(one: Host) -> None:
    before = {unit: main_pid(one, unit) for unit in (WORKER, POOL, BEAT)}
    reloaded, beat = run(one, "worker:reload", "beat:restart")
    assert (reloaded.status, beat.status) == (0, 0), (reloaded.stderr, beat.stderr)
    between = {unit: wait_active(one, unit, not_pid=pid) for unit, pid in before.items()}
    # It is told by the broker to end, and systemd starts it again
    wait_until(lambda: run(one, "worker:shutdown sending@one --yes")[0].status == 0, "it is not known")
    wait_active(one, POOL, not_pid=between[POOL])
    assert {unit: main_pid(one, unit) for unit in (WORKER, BEAT)} == {unit: between[unit] for unit in (WORKER, BEAT)}


@pytest.fixture
def letter(one: Host) -> Iterator[str]:
    """A task that failed for good: its id as a dead letter."""
    lost = '{"email_client_id": "none", "tenant_id": "verbs", "user_id": "none"}'
    [ended] = run(one, f"task:run sync_emails --wait --timeout 300 --kwargs '{lost}'")
    assert "Not found" in ended.stderr
    [found] = answer(one, "dlq list --tenant verbs")
    yield str(found["id"])
    run(one, "dlq drop --all --tenant verbs --yes")


def test_health_names_overdue_accounts_and_dead_letters(site: Site, one: Host, letter: str) -> None:
    mailbox = RemoteMailbox(site, f"overdue-{time.time_ns() % 10**9}")
    mailbox.deliver(1)
    mailbox.register()
    due = f"next_sync_at = now() - interval '2 hours' WHERE account_name = '{mailbox.user}'"

    def is_told() -> bool:
        """Beat may have it synced at the same moment; and on a busy machine something else may not be well."""
        sql(site, f"UPDATE email_client SET {due}")
        (plain, strict) = run(one, "health", "health --strict --json")
        found = {check["component"]: check for check in json.loads(strict.stdout)}
        said = [found[name]["detail"] for name in ("accounts", "dead letters")]
        is_said = "overdue" in said[0] and "not retried" in said[1] and all(each in plain.stdout for each in said)
        return is_said and (plain.status, strict.status) == (0, 1)

    wait_until(is_told, "it is not told")
    assert mailbox.sync()["status"] == "success"
    # A task that is tried again fails again, and is a dead letter again
    [retried] = run(one, f"task:retry {letter}")
    assert retried.status == 0, retried.stderr
    wait_until(lambda: answer(one, "dlq list --tenant verbs")[0]["retried_at"] is None, "it is no dead letter again")
