"""Tells browsers of changes: PostgreSQL notifies this process, which reads the events and sends them on.

Each browser goes on from the position that it stands at, so it misses nothing, whatever breaks in between.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import psycopg2
from sqlalchemy.exc import DBAPIError

from database import engine, rows, transaction

# What PostgreSQL raises for a position after which events were dropped.
_DROPPED = "55000"
# The event after which the rows are to be read anew.
_RESTORED = "database.restored"
_LIMIT = 100
_EVENTS = """
    SELECT position, type, data, email_client_id IN (
        SELECT email_client_id FROM folder_view WHERE user_id = :user
    ) AS is_the_users
    FROM events_after(:position, :limit)
"""
log = logging.getLogger("uvicorn.error")


class Changes:
    """Wakes everybody who waits, when a transaction has written events."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """What is set when the next notification comes. Take it before you read, or you may miss one."""
        return self._next

    async def listen(self) -> None:
        """Listen to PostgreSQL for ever. A connection that breaks is made again."""
        while True:
            try:
                await self._listen()
            except (psycopg2.Error, DBAPIError) as error:
                log.warning("cannot listen to PostgreSQL, trying again: %s", type(error).__name__)
            await asyncio.sleep(1)

    async def _listen(self) -> None:
        connection = await asyncio.to_thread(engine.raw_connection)
        listener: Any = connection.driver_connection
        connection.detach()  # from the pool: it is closed at the end
        with contextlib.closing(listener):
            listener.autocommit = True
            listener.cursor().execute("LISTEN metabuilder_event")
            self._wake()  # for what was written while nobody listened
            readable = asyncio.Event()
            loop, descriptor = asyncio.get_running_loop(), listener.fileno()
            loop.add_reader(descriptor, readable.set)
            try:
                while await readable.wait():
                    readable.clear()
                    listener.poll()
                    if listener.notifies:
                        listener.notifies.clear()
                        self._wake()
            finally:
                loop.remove_reader(descriptor)

    def _wake(self) -> None:
        self._next.set()
        self._next = asyncio.Event()


async def stream(changes: Changes, position: str) -> AsyncIterator[str]:
    """Server-sent events: those of the user after this position, as they come."""
    while True:
        woken = changes.next()
        try:
            held_back, events = await asyncio.to_thread(_read, position)
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", None) == _DROPPED:
                yield "event: stale\ndata:\n\n"
            return  # the browser comes back by itself, after some seconds
        for event in events:
            position = event["position"]
            if event["type"] == _RESTORED:
                yield "event: stale\ndata:\n\n"
            if event["is_the_users"]:
                yield f"id: {position}\ndata: {json.dumps({'type': event['type'], **event['data']})}\n\n"
        if len(events) == _LIMIT:
            continue
        # No notification says that an event is held back no longer.
        try:
            await asyncio.wait_for(woken.wait(), 0.5 if held_back else 30)
        except TimeoutError:
            yield ": nothing new\n\n"  # a browser that has gone is noticed


def _read(position: str) -> tuple[bool, list[dict[str, Any]]]:
    """Whether events are held back, asked before they are read; the next events after a position."""
    with transaction() as connection:
        [held] = rows(connection, "SELECT events_held_back() > 0 AS back")
        return held["back"], rows(connection, _EVENTS, position=position, limit=_LIMIT)
