"""The scheduler of celery beat: any number of beats may run, and each due task is queued once.

No leader is elected. The broker's Redis keeps when each entry of the schedule last ran. If no other beat has noted a
run since this beat looked, one script in Redis notes the run and queues the message. So of several beats exactly one
fires; a beat that dies at any instant has done both or neither, and the others go on at their next tick. Only Redis's
clock is used, so the clocks of hosts may differ.

A new entry counts as having run at the moment when a beat first saw it.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from celery import Celery
from celery.beat import ScheduleEntry, Scheduler, SchedulingError
from celery.signals import beat_init
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError
from kombu.utils.json import dumps
from redis.exceptions import RedisError

from tasks.runtime import notified, systemd
from tasks.runtime.broker import transport
from tasks.runtime.broker.clock import to_redis
from tasks.runtime.broker.queues import wake_key
from tasks.runtime.broker.scripts import STAMP, rename_unless
from tasks.runtime.clocks import Watch
from tasks.runtime.notified.listener import Listener

logger = get_logger("celery.beat")

# A hash: the name of each entry, and when the entry last ran.
LAST_RUNS = "metabuilder:beat:last_runs"
# When any beat last ticked.
TICKED = "metabuilder:beat:ticked"

# With the answer that is waited for (5 s), beat's status is true within ten seconds.
_MAX_SLEEP_SECONDS = 2
_RETRY_SECONDS = 1

# KEYS: the last runs, the queue, the tokens that wake its workers (tasks/runtime/broker/transport.py). ARGV: the
# entry, its last run as this beat saw it, this run, the message. The command that may fail comes before the run is
# noted. The token comes last and may fail: without it a worker takes the message a second later.
_FIRE = f"""{STAMP}
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('LPUSH', KEYS[2], stamped(ARGV[4], 0))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.pcall('LPUSH', KEYS[3], '')
return 1
"""


class _FiringChannel(transport.Channel):
    """A channel whose messages are queued only if the entry has not run since."""

    run: tuple[str, str, str] = ("", "", "")  # the entry, its last run as this beat saw it, this run
    has_fired = False

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        with self.conn_or_acquire() as client:
            to_redis(client, message)
            rename_unless(client, key, "list")
            keys = LAST_RUNS, key, wake_key(queue)
            self.has_fired = bool(client.eval(_FIRE, len(keys), *keys, *self.run, dumps(message)))


class _FiringTransport(transport.Transport):
    Channel = _FiringChannel


class SharedScheduler(Scheduler):  # type: ignore[misc]  # celery has no types
    """Fires each due entry once, however many beats there are."""

    max_interval = _MAX_SLEEP_SECONDS
    _is_heard: bool | None = None  # whether the broker answered at the last tick; None before the first
    _has_started = False
    _listener: Listener | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._clocks = Watch()
        super().__init__(*args, **kwargs)

    @cached_property
    def connection(self) -> Any:
        """The broker, through the transport that notes the run and queues the message in one step."""
        return self.app.connection_for_write(transport=_FiringTransport)

    def listen(self) -> None:
        """Begin to do what PostgreSQL notifies beat of (tasks/runtime/notified)."""
        if notified.HANDLERS:
            self._listener = Listener(self.app, notified.HANDLERS)
            self._listener.start()

    def close(self) -> None:
        """End with beat. May be called more than once."""
        listener, self._listener = self._listener, None
        if listener:
            listener.stop()
        super().close()

    def tick(self, **_: Any) -> float:
        """Fire all entries that are due. Returns the seconds to sleep until the next tick."""
        systemd.notify_alive()
        wait = self._tick()
        if not self._has_started:
            systemd.notify("READY=1")
            self._has_started = True
        return wait

    def _tick(self) -> float:
        try:
            wait = min([*self._fire_due(self.schedule.values()), self.max_interval])
            with self.producer.channel.conn_or_acquire() as client:
                has_changed = self._clocks.look(client)
        except (RedisError, OperationalError, OSError) as error:
            systemd.notify_away("Queues nothing", error)
            if self._is_heard is not False:
                logger.warning("beat: the broker does not answer, trying again every %s s: %s", _RETRY_SECONDS, error)
            self._is_heard = False
            return _RETRY_SECONDS
        if self._is_heard is False:
            logger.warning("beat: the broker answers again")
        if not self._is_heard or has_changed:
            systemd.notify(f"STATUS={'; '.join(filter(None, ('Keeps the schedule', self._clocks.words)))}")
        self._is_heard = True
        return wait

    def _fire_due(self, entries: Iterable[ScheduleEntry]) -> list[float]:
        """Fire each entry that is due. Returns for each entry the seconds until it is due again."""
        now, last_runs = self._look(entries)
        waits: list[float] = []
        for entry in entries:
            last_run = last_runs[entry.name]
            entry.schedule.nowfun = lambda: _moment(now)
            try:
                is_due, wait = entry.schedule.is_due(_moment(last_run))
            except (ValueError, OverflowError, OSError):
                self._forget(entry)
                waits.append(_RETRY_SECONDS)
                continue
            _, interval = entry.schedule.is_due(_moment(now))
            if float(last_run) - float(now) > interval:
                # Redis's clock was far ahead when this run was noted, and has been corrected since.
                is_due, wait = True, interval
            if is_due:
                self._fire(entry, last_run, now)
            waits.append(wait)
        return waits

    def _look(self, entries: Iterable[ScheduleEntry]) -> tuple[str, dict[str, str]]:
        """Redis's time and when each entry last ran, in Unix seconds as Redis keeps them."""
        with self.producer.channel.conn_or_acquire() as client:
            rename_unless(client, LAST_RUNS, "hash")
            seconds, microseconds = client.time()
            now = f"{seconds}.{microseconds:06}"
            with client.pipeline(transaction=False) as pipe:
                for entry in entries:
                    pipe.hsetnx(LAST_RUNS, entry.name, now)
                pipe.set(TICKED, now)
                pipe.hgetall(LAST_RUNS)
                found = pipe.execute()[-1]
        return now, {_text(name): _text(last_run) for name, last_run in found.items()}

    def _forget(self, entry: ScheduleEntry) -> None:
        """Delete the last run of an entry, as it is no time: the entry counts as new."""
        logger.error("beat: when %s last ran was not noted as a time; it counts as new", entry.name)
        with self.producer.channel.conn_or_acquire() as client:
            client.hdel(LAST_RUNS, entry.name)

    def _fire(self, entry: ScheduleEntry, last_run: str, now: str) -> None:
        channel = self.producer.channel
        channel.run, channel.has_fired = (entry.name, last_run, now), False
        try:
            self.apply_async(entry, producer=self.producer, advance=False)
        except SchedulingError:
            # The run was not noted: the next tick tries this entry again, and the other entries go on now.
            logger.exception("beat: could not queue %s", entry.name)
        if channel.has_fired:
            logger.info("Scheduler: Sent due task %s (%s)", entry.name, entry.task)


def _begin_to_listen(sender: Any, **_: Any) -> None:
    sender.scheduler.listen()


beat_init.connect(_begin_to_listen)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _moment(unix_seconds: str) -> datetime:
    return datetime.fromtimestamp(float(unix_seconds), UTC)


def seconds_since_tick(app: Celery) -> float | None:
    """How long ago any beat last looked at the schedule, by Redis's clock; None if none ever did, or if that
    was not noted as a time."""
    with app.connection_for_read() as connection, connection.default_channel.conn_or_acquire() as client:
        ticked = client.get(TICKED)
        seconds, microseconds = client.time()
    try:
        return float(seconds + microseconds / 1e6) - _moment(_text(ticked or b"")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
