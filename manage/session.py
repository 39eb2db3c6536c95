"""What verbs that work on accounts share: the environment of
the running stack, and the options for tenant and account."""

from collections.abc import Callable
from typing import Any

import click

from manage.place import IS_HOST
from native import TENANT
from native.errors import StackError

USER = "admin"


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


def connect(*, broker: bool = False) -> None:
    """Configure this process like the running stack. Raises StackError when a server that is needed does not answer.

    On a host the process is configured already, like the units.
    """
    if not IS_HOST:
        _use_the_stack(broker=broker)
    from tasks.secrecy.secrets import learn
    from tasks.settings import get_settings

    learn(*get_settings().secrets.secrets)


def _use_the_stack(*, broker: bool) -> None:
    from native import stores
    from native.environment import apply
    from native.state import State

    apply(State.default())
    for check in (stores.postgres_answers(), *([stores.redis_answers()] if broker else [])):
        if not check.ok:
            raise StackError(f"{check.component}: {check.detail}. {check.advice}")
