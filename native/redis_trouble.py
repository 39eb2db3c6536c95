"""Explains a failure of Redis to the operator: what happened, and what to do."""

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tasks.settings import RedisPlace


class Trouble(NamedTuple):
    """What happened to Redis, what to do, and whether Redis may have carried out the command.

    The advice has the names of RedisPlace's fields in the place of the variables to look at. `results_advice` is the
    advice for a result store, where that differs.
    """

    what: str
    advice: str
    is_in_doubt: bool = False
    results_advice: str | None = None


_SILENT = Trouble(
    "does not answer",
    "Look whether the process of Redis hangs, and at the network and firewalls between its host and this host",
    is_in_doubt=True,
)
_AWAY = Trouble(
    "cannot be reached", "Start it (`up` in the native stack, systemctl on its host), or check {variable}"
)
_REFUSES = Trouble("refuses the user or password", "Check the password in {password_variable}")
_OTHER = Trouble("fails", "Look at its log")
# Found by a part of the answer, because redis-py removes the first word of some answers, and adds words to others.
_ANSWERS = {
    ("OOM", "command not allowed when used memory"): Trouble(
        "is full: it has reached maxmemory and takes nothing new",
        "Let the workers empty the queues, or give Redis more memory (maxmemory; redis_maxmemory on hosts)",
        results_advice="Give this Redis more memory (maxmemory; redis_maxmemory on hosts), or set {variable} to "
        "another one. Results expire after CELERY_RESULT_EXPIRES seconds, which makes room too",
    ),
    ("READONLY", "You can't write against a read only"): Trouble(
        "is a replica and takes no writes", "Set {variable} to the primary, or make this Redis the primary"
    ),
    ("no Sentinel knows", "is no master but a"): Trouble(
        "has no master now",
        "The Sentinels choose another within half a minute if most of them and one more server run: start those that "
        "are away, or check {variable}",
    ),
    ("LOADING", "Redis is loading", "Valkey is loading"): Trouble(
        "is loading its data from disk after a start",
        "Wait until all data is loaded; the log of Redis says how far it is",
    ),
    ("max number of clients",): Trouble(
        "has as many clients as it takes",
        "Look who holds connections (CLIENT LIST), or let it take more (maxclients; redis_maxclients on hosts)",
    ),
    ("MISCONF",): Trouble("cannot write its data to disk, so it takes nothing", "Make room on the disk of its host"),
    ("NOREPLICAS",): Trouble("has too few replicas, so it takes nothing", "Look at its replicas"),
    ("NOAUTH", "WRONGPASS", "NOPERM"): _REFUSES,
}


# What a server says that was the master, and is not at the moment.
_OF_A_MASTER = tuple(_ANSWERS[words] for words in _ANSWERS if {"READONLY", "NOREPLICAS"} & {*words})


def of_redis(error: BaseException) -> BaseException | None:
    """The error of Redis, or of a connection to Redis, that led to this error; None if none did."""
    from kombu.exceptions import OperationalError
    from redis import RedisError

    chain = list(_chain(error))
    found = next((one for one in chain if isinstance(one, RedisError)), None)
    return found or next((one for one in chain if isinstance(one, OperationalError)), None)


def about_results(error: BaseException) -> bool:
    """Whether the error, or one that led to it, is about the result store and not about the broker."""
    from tasks.errors import ResultsUnavailableError

    return any(isinstance(one, ResultsUnavailableError) for one in _chain(error))


def explain(error: BaseException, place: "RedisPlace") -> Trouble:
    """The trouble that this Redis is in, by an error that `of_redis` found."""
    trouble = _trouble(error)
    if place.sentinels and trouble in _OF_A_MASTER:
        trouble = trouble._replace(
            advice="Wait for the Sentinels, which choose a master: this passes within half a minute"
        )
    advice = (place.is_results and trouble.results_advice) or trouble.advice
    return trouble._replace(advice=advice.format(**place._asdict()))


def _trouble(error: BaseException) -> Trouble:
    from redis import exceptions

    said = str(error)
    for words, trouble in _ANSWERS.items():
        if any(word in said for word in words):
            return trouble
    if isinstance(error, exceptions.AuthenticationError):
        return _REFUSES
    if isinstance(error, exceptions.TimeoutError):
        return _SILENT
    chain = _chain(error)
    is_unreachable = any(isinstance(one, exceptions.ConnectionError | OSError) for one in chain)
    return _AWAY if is_unreachable else _OTHER


def sentence(error: BaseException, place: "RedisPlace") -> str:
    """The whole explanation: what happened, to which Redis, the error's own words, and what to do."""
    trouble = explain(error, place)
    said = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{name(place)} {trouble.what} ({said}). {trouble.advice}"


def name(place: "RedisPlace") -> str:
    """What Redis is there for, with its host and port, or the name of its master, and without the password."""
    parts = urlsplit(place.url)
    redis = f"Redis at {parts.hostname or socket.gethostname()}:{parts.port or 6379}"
    if place.sentinels:
        redis = f"Redis (master {place.sentinels.master_name} of the Sentinels)"
    return f"The result store ({redis})" if place.is_results else redis


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
