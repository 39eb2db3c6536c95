"""What verbs that work on accounts share: the environment of
the running stack, and the options for tenant and account."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from manage.place import IS_HOST
from native import TENANT
from native.errors import StackError

if TYPE_CHECKING:
    from redis import Redis

    from tasks.settings import RedisPlace

_SILENCE_SECONDS = 5


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, for verbs with a result for programs."""
    return click.option("--json", "as_json", is_flag=True, help="For machines.")(command)


def tenant_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--tenant`, for verbs that look up an account."""
    option = click.option("--tenant", default=TENANT, show_default=True, callback=not_empty, help="Whose accounts.")
    return option(command)


def not_empty(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The value of an option. Raises BadParameter where the value is empty."""
    if not value:
        raise click.BadParameter("must not be empty", param=parameter)
    return value


def account_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument `ACCOUNT`, the account that a verb is about. Errors then name the account."""
    argument = click.argument("account_name", metavar="ACCOUNT", callback=_remember)
    return argument(command)


def _remember(context: click.Context, _: click.Parameter, account_name: str) -> str:
    context.find_root().obj = account_name
    return account_name


def connect(*, database: bool = True, broker: bool = False) -> None:
    """Configure this process like the running stack. Raises StackError when a server that is needed does not answer.

    On a host the process is configured already, like the units.
    """
    if not IS_HOST:
        _use_the_stack(database=database, broker=broker)
    from tasks.secrecy.secrets import learn
    from tasks.settings import get_settings

    learn(*get_settings().secrets.secrets)


@contextmanager
def broker_alone() -> Iterator["Redis"]:
    """The broker's Redis, for verbs that ask it alone: they load neither the application nor its tasks, and are
    quick."""
    connect(database=False)
    from tasks.settings import get_settings

    with _client(get_settings().redis.broker) as client:
        yield client


@contextmanager
def results_alone() -> Iterator["Redis"]:
    """The Redis of the results, as `broker_alone`."""
    connect(database=False)
    from tasks.settings import get_settings

    with _client(get_settings().redis.results) as client:
        yield client


def _client(place: "RedisPlace") -> "Redis":
    from tasks.runtime.broker.master import client_of

    return client_of(place, socket_timeout=_SILENCE_SECONDS, socket_connect_timeout=_SILENCE_SECONDS)


def application() -> Any:
    """The Celery application, for verbs that queue tasks or command workers. Takes long to load."""
    from celery import current_app

    import tasks.celery_app  # noqa: F401 - becomes the current application

    return current_app


def _use_the_stack(*, database: bool, broker: bool) -> None:
    from native.environment import apply
    from native.state import State

    apply(State.default())
    if not (database or broker):
        return
    from native import stores

    checks = (stores.postgres_answers,) * database + (stores.redis_answers,) * broker
    for check in (ask() for ask in checks):
        if not check.ok:
            raise StackError(f"{check.component}: {check.detail}. {check.advice}")
