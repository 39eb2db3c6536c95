"""Clients of a Redis: at its address or, with Sentinels, at its master, wherever that is by now.

With Sentinels, every new connection asks them for the address of the master, and then asks the server there whether
it is a master: a server that was demoted takes connections and answers questions, but its data is old and it takes no
writes. The first Sentinel that answers within a second decides; one that is down, or cannot reach the master itself,
is passed over. The certificate of the server is verified for the name or address that the Sentinel gave.

A connection over which a server says that it is no master, or is cut off from its replicas, is closed, so that the
next command finds the new master. Otherwise a pool could hold on to the old one for ever.
"""

from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from tasks.settings import RedisPlace, Sentinels

# The longest that one Sentinel is waited for, to connect and for its answer.
_SENTINEL_SECONDS = 1.0
# Errors that have no class of their own: too few replicas take part, or the server became a replica while it waited.
_LOST_WORDS = ("NOREPLICAS", "UNBLOCKED")


class MasterLostError(RedisConnectionError):
    """The server is no master any more, or must not act as one; the command had no effect."""


class NotReplicatedError(RedisConnectionError):
    """The master has what was written, but no replica has said that it has it too: it would be lost with it."""


def client_of(place: RedisPlace, **options: Any) -> Redis:
    """A client that tries each command once. `options` are those of redis.Redis."""
    following = connection_options(place.url, place.sentinels)
    return Redis.from_url(place.url, retry=Retry(NoBackoff(), 0), **options, **following)


def connection_options(url: str, sentinels: Sentinels | None) -> Mapping[str, Any]:
    """What a pool of connections to the Redis at the URL gets besides, so that its connections lead to the master."""
    if sentinels is None:
        return {}
    is_encrypted = url.startswith("rediss://")
    return {"connection_class": TlsMasterConnection if is_encrypted else MasterConnection, "sentinels": sentinels}


def find_master(
    sentinels: Sentinels, first: tuple[str, int] | None = None
) -> tuple[tuple[str, int], tuple[str, int]]:
    """The address of the master, and the Sentinel that named it. The Sentinel `first` is asked first.

    Raises redis.exceptions.ConnectionError where no Sentinel knows a master that is up.
    """
    said = []
    for address in sorted(sentinels.addresses, key=lambda one: one != first):
        try:
            return _ask(sentinels, address), address
        except (RedisError, OSError) as error:
            said.append(f"{address[0]}:{address[1]}: {error}")
    raise RedisConnectionError(f"no Sentinel knows where the master {sentinels.master_name} is: {'; '.join(said)}")


def _ask(sentinels: Sentinels, address: tuple[str, int]) -> tuple[str, int]:
    host, port = address
    options: dict[str, Any] = {
        "password": sentinels.password.get_secret_value() if sentinels.password else None,
        "socket_timeout": _SENTINEL_SECONDS,
        "socket_connect_timeout": _SENTINEL_SECONDS,
        "ssl": bool(sentinels.tls),
        **sentinels.tls,
    }
    with Redis(host, port, retry=Retry(NoBackoff(), 0), **options) as client:
        state = _pairs(client.execute_command("SENTINEL", "MASTER", sentinels.master_name))
    if flags := {"s_down", "o_down"} & set(state["flags"].split(",")):
        raise RedisConnectionError(f"the master at {state['ip']}:{state['port']} is {', '.join(sorted(flags))}")
    return state["ip"], int(state["port"])


class MasterConnection(Connection):
    """A connection to the master that the Sentinels name."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        self._sentinels = sentinels
        self._sentinel: tuple[str, int] | None = None  # which answered last
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def _connect(self) -> Any:
        (self.host, self.port), self._sentinel = find_master(self._sentinels, self._sentinel)
        return super()._connect()  # type: ignore[no-untyped-call]

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """As redis-py's, and make sure that the server is a master.

        HELLO tells that to every user, ROLE only to administrators.
        """
        super().on_connect_check_health(check_health)
        self.send_command("HELLO", check_health=False)  # type: ignore[no-untyped-call]
        role = _pairs(self.read_response()).get("role")
        if role != "master":
            self._pass_over_sentinel()
            raise MasterLostError(f"Redis at {self.host}:{self.port} is no master but a {role}")

    def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's, but an error that only another server can mend ends the connection."""
        try:
            return super().read_response(*args, **options)
        except ResponseError as error:
            if not _is_lost(error):
                raise
            self.disconnect()  # type: ignore[no-untyped-call]
            raise MasterLostError(str(error)) from error

    def _pass_over_sentinel(self) -> None:
        """Ask another Sentinel first the next time: this one may be cut off from the others."""
        addresses = self._sentinels.addresses
        if self._sentinel:
            self._sentinel = addresses[(addresses.index(self._sentinel) + 1) % len(addresses)]


class TlsMasterConnection(MasterConnection, SSLConnection):
    """The same over TLS."""


def _is_lost(error: ResponseError) -> bool:
    return isinstance(error, ReadOnlyError | MasterDownError) or str(error).startswith(_LOST_WORDS)


def _pairs(answer: Any) -> dict[str, str]:
    """The names and values of an answer, which is a list or a map by the version of the protocol."""
    items = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    return {_text(name): _text(value) for name, value in items}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
