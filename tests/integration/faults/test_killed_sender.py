"""kill -9 of the worker at every point of sending: each message arrives once, or is unknown and waits.

The kills come from the SMTP server: it knows at which point of a message it is.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, USER, Database
from tests.integration.faults.conftest import Queue, broker
from tests.integration.send.conftest import sending_account
from tests.support.mailbox import Mailbox
from tests.support.servers import RedisServer
from tests.support.smtp_server import POINTS, SmtpServer, drop
from tests.support.stored import rows
from tests.support.told import told
from tests.support.worker import Worker, wait_until

MESSAGES = 200
CHILDREN = 2
RESTARTS = 20
FIRST, APART, BETWEEN_POINTS = 5, 70, 4
ON_CONNECTING = POINTS[: POINTS.index("mail")]


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def account(short_waits: None, smtp: SmtpServer, environment: Callable[..., None]) -> Account:
    environment(SMTP_TIMEOUT="1", SMTP_RETRIES="2")
    return sending_account(Mailbox("127.0.0.1", 9, "ada", "x"), smtp)


@pytest.fixture
def senders(account: Account, tmp_path: Path) -> Iterator[Worker]:
    with Worker(tmp_path, concurrency=CHILDREN) as worker:
        yield worker


def queue_messages(queue: Queue, account: Account) -> None:
    for number in range(MESSAGES):
        queue.app.send_task(
            "email_service.tasks.send_email",
            (account.id, TENANT, USER, [f"bob{number}@example.net"]),
            {"subject": f"message {number}", "body_text": "Hello."},
            queue="send",
        )


def states() -> Counter[object]:
    return Counter(state for (state,) in rows("SELECT state FROM outbox_message"))


def is_done(server: RedisServer) -> bool:
    """Nothing is left to do: no message in a queue, none delivered, none waiting for its time."""
    with broker(server) as client:
        waiting = sum(client.llen(key) for key in client.keys("send*"))
        return not waiting and not client.zcard("unacked_index")


def assert_each_arrived_once_or_is_unknown(smtp: SmtpServer, interruptions: int) -> Counter[object]:
    """And no more are unknown than can be: what each of the children was at, at each interruption."""
    arrived = Counter(smtp.taken())
    found = dict(rows("SELECT recipients->0->>'address', state FROM outbox_message"))
    assert len(found) == MESSAGES
    assert set(found.values()) <= {"sent", "unknown"}
    ids = dict(rows("SELECT id, state FROM outbox_message"))
    outcomes = Counter((event.data["outbox_id"], event.type) for event in told())
    assert set(outcomes.values()) == {1}
    assert outcomes.keys() >= {(key, f"message.{state}") for key, state in ids.items()}
    for number in range(MESSAGES):
        state, times = found[f"bob{number}@example.net"], arrived[f"message {number}"]
        assert times == 1 or (state == "unknown" and times == 0), (number, state, times)
    assert Counter(found.values())["unknown"] <= CHILDREN * interruptions
    return Counter(
        (state, arrived[f"message {n}"]) for n in range(MESSAGES) for state in [found[f"bob{n}@example.net"]]
    )


def children(senders: Worker) -> None:
    """What was sent comes back at once."""
    senders.kill_child()


def everything(senders: Worker) -> None:
    """What was sent comes back when the visibility timeout has passed."""
    senders.kill()
    senders.start(wait=False)


# At each point of a message the worker is killed this often; a connection is made only after each kill.
@pytest.mark.parametrize(("end", "kills_per_point"), [(children, 2), (everything, 1)])
def test_killed_at_every_point(
    end: Callable[[Worker], None],
    kills_per_point: int,
    smtp: SmtpServer,
    account: Account,
    senders: Worker,
    tasks_queue: Queue,
    redis: RedisServer,
    database: Database,
) -> None:
    kills: Counter[str] = Counter()
    one_at_a_time = threading.Lock()

    def kill_at(point: str) -> Callable[[], None]:
        def kill() -> None:
            with one_at_a_time:
                kills[point] += 1
                end(senders)
            drop()

        return kill

    for position, point in enumerate(POINTS):
        for number in range(kills_per_point):
            later = FIRST + number * APART + position * BETWEEN_POINTS
            smtp.on(point, kill_at(point), after=2 + number * 6 if point in ON_CONNECTING else later)

    queue_messages(tasks_queue, account)
    wait_until(lambda: states().total() == MESSAGES and is_done(redis), "not all are done", 200)

    outcome = assert_each_arrived_once_or_is_unknown(smtp, kills.total())
    assert set(kills) == set(POINTS)
    assert kills.total() == kills_per_point * len(POINTS)
    print(f"{kills.total()} kills at {len(kills)} points; (state, arrived): {dict(outcome)}")


def test_the_server_restarts_again_and_again(
    smtp: SmtpServer, account: Account, senders: Worker, tasks_queue: Queue, redis: RedisServer, database: Database
) -> None:
    for number in range(RESTARTS):
        smtp.on("accepted" if number % 5 == 0 else "data", lambda: smtp.hang_up() or drop(), after=9 * number)

    queue_messages(tasks_queue, account)
    wait_until(lambda: states().total() == MESSAGES and is_done(redis), "not all are done", 180)

    print(f"(state, arrived): {dict(assert_each_arrived_once_or_is_unknown(smtp, RESTARTS))}")
