"""Statements that fail: what they were to store is people's mail, and in no log, and in no error of ours."""

import re
import threading
import traceback
from collections.abc import Callable

import pytest
from sqlalchemy.exc import DBAPIError

from tasks.errors import StorageUnavailableError
from tasks.storage import copy, wire
from tasks.storage.ids import new_id
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, Database
from tests.support.servers import PostgresServer
from tests.support.worker import wait_until

VALUE = "ann.lovelace@example.org"
ADD = "INSERT INTO credential (tenant_id, id, kind, ciphertext) VALUES (%s, %s, 'password', '')"


def twice() -> None:
    with tenant_transaction(TENANT) as connection:
        for _ in range(2):
            connection.exec_driver_sql(ADD, (TENANT, VALUE))


def by_copy() -> None:
    blob = [wire.text(TENANT), wire.text(f"{VALUE}\0"), wire.bigint(1), wire.binary(VALUE.encode())]
    with tenant_transaction(TENANT) as connection:
        copy.bulk_insert(connection, "blob", ["tenant_id", "sha256", "size", "content"], [blob])


def without_an_owner() -> None:
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql(
            "INSERT INTO rereading (tenant_id, email_message_id, email_client_id, parser_version) "
            "VALUES (%s, %s, %s, 1)",
            (TENANT, VALUE, VALUE),
        )


def of_another_tenant() -> None:
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql(ADD, (VALUE, VALUE))


def misspelt() -> None:
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql("SELECT nothing FROM email_message WHERE subject = %s", (VALUE,))


FAILURES = {
    twice: "23505",
    by_copy: "22021",
    without_an_owner: "23503",
    of_another_tenant: "42501",
    misspelt: "42703",
}


@pytest.fixture
def logged(database: Database, postgres: PostgresServer) -> Callable[[], str]:
    """What PostgreSQL logs from here on."""
    begins = len(postgres.log.read_text())
    return lambda: postgres.log.read_text()[begins:]


@pytest.mark.parametrize(("fail", "state"), FAILURES.items(), ids=[fail.__name__ for fail in FAILURES])
def test_a_statement_that_fails_shows_no_values(
    logged: Callable[[], str], fail: Callable[[], None], state: str
) -> None:
    with pytest.raises(DBAPIError) as failure:
        fail()

    told = "".join(traceback.format_exception(failure.value))
    assert VALUE not in told + repr(failure.value.orig) + str(failure.value.orig)
    assert VALUE not in logged()
    (line,) = [line for line in logged().splitlines() if "ERROR:" in line]
    # Who, from which program, which kind of failure, and of what.
    assert re.search(rf" metabuilder\w*@\w+ metabuilder {state} ERROR: ", line)


def test_transactions_that_wait_for_each_other_show_no_values(logged: Callable[[], str]) -> None:
    """PostgreSQL logs the statements of both as DETAIL of a deadlock."""
    keys = [new_id(), new_id()]
    with tenant_transaction(TENANT) as connection:
        for key in keys:
            connection.exec_driver_sql(ADD, (TENANT, key))
    barrier = threading.Barrier(2)
    failures: list[BaseException] = []

    def change(first: str, second: str) -> None:
        statement = "UPDATE credential SET key_id = %s WHERE id = %s"
        try:
            with tenant_transaction(TENANT) as connection:
                connection.exec_driver_sql(statement, (VALUE, first))
                barrier.wait()
                connection.exec_driver_sql(statement, (VALUE, second))
        except StorageUnavailableError as error:
            failures.append(error)

    threads = [threading.Thread(target=change, args=order) for order in (keys, keys[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wait_until(lambda: "deadlock detected" in logged(), "the deadlock is not logged")
    assert len(failures) == 1
    assert VALUE not in logged() + "".join(traceback.format_exception(failures[0]))
