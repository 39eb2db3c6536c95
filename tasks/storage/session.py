"""Transactions on PostgreSQL, each bound to one tenant.

The tenant is set for the transaction, not for the connection, so a transaction pooler (PgBouncer) may sit in
between. Nothing is connected at import or before the fork.
"""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any

import psycopg2
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError

from tasks.errors import StorageUnavailableError
from tasks.secrecy.urls import checked_postgresql_url, postgresql_servers
from tasks.settings import ConfigurationError, get_settings

# Two connections a process: for the transaction at work, and for a lease that another thread renews meanwhile.
POOL_SIZE = 2
_kept = POOL_SIZE
# How many connections were found lost.
_lost = 0
CONNECT_TIMEOUT_SECONDS = 10

_BEGIN = text(
    """
    SELECT set_config('metabuilder.tenant_id', :tenant_id, true),
           set_config('synchronous_commit', :synchronous_commit, true)
    """
)

# Classes of SQLSTATE that pass by themselves: connection lost, resources exhausted (disk full among them),
# operator intervention (restart), system error, and transactions that lost against another.
_PASSING_SQLSTATES = ("08", "53", "57", "58", "40")


# Errors of a primary that became a standby or read-only, of a server that ends its connections, and of a session that
# stood still in a transaction for too long. All connections of the pool may lead to a server that cannot write any
# more; new connections lead to the new primary.
_LOST_SQLSTATES = ("25006", "25P03", "57P01", "57P02", "57P03")

# How libpq begins a line about one of the servers that it tried.
_ABOUT_A_SERVER = ("connection to server", "could not translate host name")

# Data exceptions and exceeded limits: PostgreSQL will never take the same rows.
_DATA_SQLSTATES = ("22", "54")


# A host that vanished is noticed within a minute, before the hard time limit kills the process that waits for it.
_OF_ONE_SERVER = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms that sent data may stay unacknowledged
}
# Where another server takes over, a host that vanished is noticed within ten seconds.
_OF_SEVERAL_SERVERS = {
    "connect_timeout": 3,  # of each server
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def keep_connections(number: int) -> None:
    """Keep so many connections open in this process, whose threads need so many at once, instead of POOL_SIZE.

    Each one beyond would be made for one transaction and closed after it. A program calls this at its start, before
    it uses PostgreSQL.
    """
    global _kept
    _kept = number


@lru_cache(maxsize=1)
def get_engine() -> Engine:
    """The pool of connections of this process."""
    url = get_settings().database.url.get_secret_value()
    has_several = has_several_servers(url)
    engine = create_engine(
        url,
        pool_size=_kept,
        hide_parameters=True,  # parameters are people's mail, and errors go into logs and results
        connect_args={
            "application_name": "metabuilder",
            **(_OF_SEVERAL_SERVERS if has_several else _OF_ONE_SERVER),
        },
    )
    if has_several:
        _LastPrimary().remember(engine)
    event.listen(engine, "checkout", _refuse_closed)
    event.listen(engine, "invalidate", _count_lost)
    event.listen(engine, "handle_error", _leave_out_values)
    return engine


def owner_engine(owner_url: str) -> Engine:
    """Connections of the role that owns the tables, for migrations; the caller disposes of them.

    Raises ConfigurationError for a URL that cannot be read as it is meant.
    """
    try:
        url = checked_postgresql_url(owner_url)
    except ValueError as error:
        raise ConfigurationError(f"the URL of the role that owns the tables {error}") from None
    return create_engine(url, connect_args=_OF_SEVERAL_SERVERS if has_several_servers(url) else {})


def has_several_servers(url: str) -> bool:
    """Whether the URL names several servers, one of which takes over when the primary is gone."""
    return len(postgresql_servers(url)) > 1


class _LastPrimary:
    """Asks the server first that was the primary the last time. One before it that is gone would cost each new
    connection its time-out."""

    def __init__(self) -> None:
        self._server = ("", "")

    def remember(self, engine: Engine) -> None:
        """Do so for all connections of the engine."""
        event.listen(engine, "do_connect", self._put_first)
        event.listen(engine, "connect", self._note)

    def _put_first(self, _dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        servers = list(zip(options["host"].split(","), options["port"].split(","), strict=True))
        servers.sort(key=lambda server: server != self._server)
        options["host"], options["port"] = (",".join(column) for column in zip(*servers, strict=True))

    def _note(self, connection: Any, _record: Any) -> None:
        self._server = (connection.info.host, str(connection.info.port))


def without_values(error: BaseException) -> None:
    """Keep only what `brief` keeps of an error's text."""
    if error.args and isinstance(error.args[0], str):
        error.args = (brief(error.args[0]), *error.args[1:])


def brief(words: str) -> str:
    """The first line of an error, and those that say why each of several servers cannot be had. The lines DETAIL and
    CONTEXT quote rows, which are people's mail."""
    first, *others = words.strip().splitlines() or [""]
    return "; ".join([first, *(line for line in others if line.startswith(_ABOUT_A_SERVER))])


def connections_lost() -> int:
    """How often this process has found that PostgreSQL ended a connection, or does not take writes any more.

    If the number is another one, PostgreSQL may have crashed in between, or another server may have taken over. Then
    the last transactions that were not durable may be missing, although no error was raised since.
    """
    return _lost


def _count_lost(*_: Any) -> None:
    global _lost
    _lost += 1


def _leave_out_values(context: ExceptionContext) -> None:
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None:
            without_values(error)


def _refuse_closed(connection: Any, record: Any, _proxy: Any) -> None:
    # If PostgreSQL restarted while the connection was idle, the socket shows it, which saves each transaction a round
    # trip to test the connection. A new connection is let through, because its own error says more. The others of the
    # pool are as old and lead to the same server, so they are replaced, too.
    if record.info.setdefault("is_new", True):
        record.info["is_new"] = False
        return
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    if poll.poll(0):
        raise InvalidatePoolError


def _forget_inherited_connections() -> None:
    # A child must neither use nor close the parent's sockets: closing would end the parent's sessions.
    if get_engine.cache_info().currsize:
        get_engine().dispose(close=False)


os.register_at_fork(after_in_child=_forget_inherited_connections)


@contextmanager
def tenant_transaction(tenant_id: str, *, durable: bool = True) -> Iterator[Connection]:
    """One transaction that sees and writes the rows of one tenant only.

    With `durable=False` the commit does not wait for the disk: after a crash of PostgreSQL, or a failover, the last
    such transactions may be missing, whole and from the end, which a checkpoint committed along with its data allows.
    The next durable commit makes all earlier ones durable too, if `connections_lost` is what it was before them.

    Raises StorageUnavailableError for errors that pass by themselves.
    """
    with _translating_errors(), get_engine().begin() as connection:
        connection.execute(_BEGIN, {"tenant_id": tenant_id, "synchronous_commit": "on" if durable else "off"})
        yield connection


@contextmanager
def unbound_transaction() -> Iterator[Connection]:
    """A transaction without a tenant: it sees no rows, and is for the functions that look across tenants."""
    with _translating_errors(), get_engine().begin() as connection:
        yield connection


@contextmanager
def listening(*channels: str) -> Iterator[Any]:
    """A connection of psycopg2 that is notified on these channels (LISTEN), and closed at the end.

    A pooler of transactions lets no notification through. Raises StorageUnavailableError.
    """
    with _translating_errors(), get_engine().connect() as connection:
        listener = connection.connection.driver_connection
        connection.detach()
        for channel in channels:
            connection.exec_driver_sql(f"LISTEN {channel}")
        connection.commit()
        yield listener


def wait_for_notifications(listener: Any, seconds: float, *others: Any) -> set[str]:
    """The channels with notifications on a connection from `listening`, after these seconds at most, or as soon as
    one of `others` can be read.

    Raises StorageUnavailableError where the connection is lost.
    """
    select.select([listener, *others], [], [], seconds)
    try:
        listener.poll()
    except psycopg2.Error as error:
        raise StorageUnavailableError(str(error)) from error
    channels = {notification.channel for notification in listener.notifies}
    listener.notifies.clear()
    return channels


def database_now() -> datetime:
    """The time by PostgreSQL's clock. Raises StorageUnavailableError."""
    with unbound_transaction() as connection:
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


@contextmanager
def _translating_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if _sqlstate(error) in _LOST_SQLSTATES:
            _count_lost()
            get_engine().dispose()
        if _is_passing(error):
            raise StorageUnavailableError(str(error.orig)) from error
        raise


def _is_passing(error: DBAPIError) -> bool:
    if sqlstate := _sqlstate(error):
        return sqlstate.startswith(_PASSING_SQLSTATES) or sqlstate in _LOST_SQLSTATES
    return isinstance(error, OperationalError | InterfaceError)


def is_about_the_data(error: DBAPIError) -> bool:
    """Whether PostgreSQL refuses the data in one of the rows, and not the statement."""
    return _sqlstate(error).startswith(_DATA_SQLSTATES)


def _sqlstate(error: DBAPIError) -> str:
    """The SQLSTATE of an error; empty where the server did not answer."""
    return getattr(error.orig, "pgcode", None) or ""
