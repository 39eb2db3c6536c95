"""Events are read in an order in which none is ever missed, by their own tenant alone, until they are old."""

import json
import select
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from native.postgres import libpq
from tasks.errors import NotFoundError
from tasks.storage.events import (
    CHANNEL,
    EventPositionError,
    delete_old_events,
    events_after,
    find_event,
    number_held_back,
    position_now,
    tell,
)
from tasks.storage.models import EVENT_SLOTS
from tasks.storage.session import tenant_transaction
from tasks.storage.states import EventType
from tests.conftest import TENANT, Database
from tests.support.told import data_of, make_older, told
from tests.support.worker import wait_until

PATIENCE_SECONDS = 60
INSERT = (
    "INSERT INTO event (tenant_id, email_client_id, type, data) "
    "SELECT %s, 'account', 'message.created', jsonb_build_object('number', number) "
    "FROM generate_series(%s, %s) AS number"
)


class Session:
    """A session of the application, bound to a tenant, whose transaction stays open until it is told to commit."""

    def __init__(self, url: str, tenant: str = TENANT) -> None:
        self.connection = psycopg2.connect(libpq(url))
        self.cursor = self.connection.cursor()
        self.tenant = tenant
        self.begin()

    def begin(self) -> None:
        self.cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true)", (self.tenant,))

    def write(self, first: int, last: int | None = None) -> None:
        self.cursor.execute(INSERT, (self.tenant, first, last or first))

    def value(self, query: str, *values: object) -> Any:
        self.cursor.execute(query, values)
        return self.cursor.fetchone()[0]

    def commit(self) -> None:
        self.connection.commit()
        self.begin()


@pytest.fixture
def session(database: Database) -> Iterator[Callable[..., Session]]:
    opened: list[Session] = []

    def open_session(tenant: str = TENANT, url: str = "") -> Session:
        opened.append(Session(url or database.app_url, tenant))
        return opened[-1]

    yield open_session
    for one in opened:
        one.connection.close()


def numbers(after: str = "") -> list[int]:
    return [data["number"] for data in data_of(after=after)]


def given(after: str, limit: int = 10_000) -> list[int]:
    """What a reader is given now, whatever is held back."""
    return [event.data["number"] for event in events_after(TENANT, after, limit)]


def test_transactions_that_commit_in_another_order_hide_nothing(session: Callable[..., Session]) -> None:
    first, second, bystander = session(), session(), session()
    # A reader at work, such as a backup, holds nothing back, as long as it writes nothing
    assert bystander.value("SELECT count(*) FROM email_message") == 0

    # The first takes its number first, and commits last
    first.write(1)
    second.write(2)
    second.commit()
    second.write(3)
    second.commit()
    assert given("") == []
    assert number_held_back(TENANT) == 2
    start = position_now(TENANT)

    first.write(4)
    first.commit()
    assert numbers() == [1, 4, 2, 3]
    assert numbers(start) == [1, 4, 2, 3], "they were still to commit at that position"
    assert number_held_back(TENANT) == 0
    events = told()
    for before, event in enumerate(events):
        assert [later.id for later in told(after=event.position)] == [later.id for later in events[before + 1 :]]
    assert len({event.position for event in events}) == 4

    # What is taken back was never there, and does not hold back what follows
    first.write(5)
    first.connection.rollback()
    assert numbers(events[-1].position) == []
    first.begin()
    first.write(6)
    first.commit()
    assert numbers(events[-1].position) == [6]


def test_a_reader_that_reads_all_the_time_gets_each_event_once(session: Callable[..., Session]) -> None:
    """Three writers write and commit in turns, and a reader reads on after each step."""
    writers = [session() for _ in range(3)]
    got: list[int] = []
    position, number = "", 0
    for step in range(90):
        writer = writers[step * step % 7 % 3]
        if step % 4 == 3:
            writer.commit()
        else:
            number += 1
            writer.write(number)
        for event in events_after(TENANT, position, 2):
            position = event.position
            got.append(event.data["number"])
    for writer in writers:
        writer.commit()
    got += numbers(position)
    assert sorted(got) == list(range(1, number + 1))


def test_a_listener_is_woken_once_for_each_transaction_and_told_nothing(session: Callable[..., Session]) -> None:
    listener, writer = session(), session()
    listener.connection.rollback()
    listener.connection.autocommit = True
    listener.cursor.execute(f"LISTEN {CHANNEL}")

    writer.write(1, 3)
    writer.write(4)
    writer.commit()
    select.select([listener.connection], [], [], PATIENCE_SECONDS)
    listener.connection.poll()
    # What the writer did is all there by now: the notification comes with the commit.
    assert [(note.channel, note.payload) for note in listener.connection.notifies] == [(CHANNEL, "")]
    assert numbers() == [1, 2, 3, 4]

    # A statement that changes no row writes no event, wakes nobody, and does not wait for the disk
    with tenant_transaction(TENANT, durable=False) as connection:
        setting = text("SELECT current_setting('synchronous_commit')")
        connection.exec_driver_sql(INSERT, (TENANT, 2, 1))
        assert connection.scalar(setting) == "off"
        tell(connection, TENANT, "account", EventType.FOLDER_CREATED)
        assert connection.scalar(setting) == "off"
        tell(connection, TENANT, "account", EventType.FOLDER_CREATED, {"number": 5}, {"number": 6})
        assert connection.scalar(setting) == "on", "a reader must not go past what a crash takes back"
    listener.connection.poll()
    assert numbers() == [1, 2, 3, 4, 5, 6]


def test_a_tenant_reads_its_own_events_and_nobody_changes_them(
    session: Callable[..., Session], database: Database
) -> None:
    mine, other = session(), session("tenant-2")
    mine.write(1)
    other.write(2)
    mine.commit()
    other.commit()
    (event,) = told()
    assert event.data == {"number": 1}
    assert find_event(TENANT, event.id) == event
    with pytest.raises(NotFoundError):
        find_event("tenant-2", event.id)
    assert events_after("", "", 10) == []

    refused = (
        "UPDATE event SET data = '{}'",
        "DELETE FROM event",
        "TRUNCATE event",
        f"SELECT count(*) FROM event_{0:02}",
        "DELETE FROM event_dropped",
        "INSERT INTO event_dropped VALUES ('tenant-1', 1, 1)",
        "INSERT INTO event (tenant_id, email_client_id, type, data, created_at) "
        "VALUES ('tenant-1', 'a', 'message.created', '{}', '2999-01-01')",
        "SELECT empty_old_event_slots(7)",
    )
    for statement in refused:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            mine.cursor.execute(statement)
        mine.connection.rollback()
        mine.begin()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"):
        mine.cursor.execute(INSERT, ("tenant-2", 1, 1))


def test_old_events_go_and_a_reader_who_has_not_read_them_is_told(
    session: Callable[..., Session], database: Database
) -> None:
    writer, other = session(), session("tenant-2")
    for number in range(1, 5):
        writer.write(number)
        writer.commit()
    other.write(9)
    other.commit()
    positions = [event.position for event in told()]
    assert delete_old_events(7) == 0

    # Given that the first two were written ten days ago
    days = 10
    with create_engine(database.owner_url).begin() as owner:
        make_older(owner, days, below=3)
    assert delete_old_events(days + 1) == 0
    assert numbers() == [1, 2, 3, 4]

    assert delete_old_events(7) == 2
    assert delete_old_events(7) == 0
    assert numbers() == numbers(positions[1]) == [3, 4]
    assert numbers(positions[2]) == [4]
    with pytest.raises(EventPositionError, match="are kept no more"):
        told(after=positions[0])
    assert [event.data for event in events_after("tenant-2", positions[0], 9)] == [{"number": 9}], "it missed none"
    assert numbers(positions[3]) == []


def test_a_reader_who_comes_while_events_are_dropped_is_told(
    session: Callable[..., Session], database: Database
) -> None:
    writer = session()
    for number in range(1, 4):
        writer.write(number)
        writer.commit()
    first, second, _ = (event.position for event in told())
    with create_engine(database.owner_url).connect() as owner, ThreadPoolExecutor(1) as thread:
        with owner.begin():
            make_older(owner, 10, below=3)
        with owner.begin():
            assert owner.scalar(text("SELECT empty_old_event_slots(7)")) == 2
            reading = thread.submit(given, first)
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            wait_until(lambda: owner.scalar(waiting), "the reader does not come to the slot")
        with pytest.raises(EventPositionError, match="are kept no more"):
            reading.result(PATIENCE_SECONDS)
    assert given(second) == [3]


def test_the_cleanup_leaves_what_others_use(session: Callable[..., Session], database: Database) -> None:
    writer, reader = session(), session()
    writer.write(1)
    writer.commit()
    with create_engine(database.owner_url).connect() as owner:
        # Events of today lie in one slot with older ones, because no cleanup ran before the day began
        with owner.begin():
            make_older(owner, EVENT_SLOTS, below=2)
        writer.write(2)
        writer.commit()
        writer.write(3)
        assert delete_old_events(7) == 0, "nobody waits for the writer"
        writer.commit()

        # A slot that somebody reads waits for the next run; one that was overdue a day ago is an error
        with owner.begin():
            make_older(owner, 7, below=3)
            owner.execute(text("DELETE FROM event WHERE created_at < now() - interval '20 days'"))
        reader.value("SELECT count(*) FROM events_after('', 10)")
        assert delete_old_events(7) == 0
        with pytest.raises(OperationalError, match="lock timeout"):
            delete_old_events(5)
        reader.commit()
        assert delete_old_events(7) == 1
    assert numbers() == [3]


@pytest.mark.parametrize("odd", ["x", "1", "1-", "-1", "1-1-1", "9" * 19 + "-1", "1-" + "9" * 19, "1 - 1", "1-1\n"])
def test_what_is_no_position_is_refused(database: Database, odd: str) -> None:
    with pytest.raises(EventPositionError, match="no position"):
        told(after=odd)


def test_a_position_of_another_database_is_refused(database: Database) -> None:
    with pytest.raises(EventPositionError, match="not of this database"):
        told(after="900000000000000000-1")


def test_reading_on_takes_the_index_of_the_tenant(session: Callable[..., Session]) -> None:
    # Given so many events that reading all of them would show
    writer = session()
    writer.write(1, 5000)
    writer.commit()
    writer.write(5001, 5003)
    writer.commit()
    position = told()[4999].position
    writer.connection.rollback()
    writer.begin()
    plan = writer.value(
        "EXPLAIN (FORMAT json) SELECT * FROM event "
        "WHERE tenant_id = current_setting('metabuilder.tenant_id', true) AND transaction_id < 9223372036854775807 "
        "AND (transaction_id, number) > (%s, %s) ORDER BY transaction_id, number LIMIT 100",
        *map(int, position.split("-")),
    )
    shown = json.dumps(plan)
    assert "Index Cond" in shown
    assert "ROW(transaction_id, number) >" in shown
    assert '"Seq Scan"' not in shown
    assert '"Sort"' not in shown
    assert given(position, 2) == [5001, 5002]
