"""`dev:shell`, `dev:logs`, `dev:test`, `flower:open`: for who changes the code."""

import os
import sys
from typing import Any

import click

from manage import checks, stack
from manage.examples import example
from manage.output import say, tell
from manage.session import connect


@example("dev:shell")
@click.command(name="dev:shell")
def shell() -> None:
    """Open a Python shell with the application, its tasks, the models and the sessions at hand."""
    connect()
    import code

    names = _at_hand()
    banner = f"At hand: {', '.join(sorted(names))}" if sys.stdin.isatty() else ""
    code.interact(banner=banner, local=names, exitmsg="")


def _at_hand() -> dict[str, Any]:
    from sqlalchemy import select, text

    from tasks import celery_app
    from tasks.registry import TASKS
    from tasks.settings import get_settings
    from tasks.storage import models
    from tasks.storage.session import tenant_transaction, unbound_transaction

    functions = {row.function: getattr(celery_app, row.function) for row in TASKS}
    steering = ("celery_app", "get_active_tasks", "get_queue_stats", "get_task_status", "revoke_task")
    return {
        **functions,
        **{name: getattr(celery_app, name) for name in steering},
        "models": models,
        "select": select,
        "settings": get_settings(),
        "tenant_transaction": tenant_transaction,
        "text": text,
        "unbound_transaction": unbound_transaction,
    }


@example("dev:logs")
@click.command(name="dev:logs")
@click.pass_context
def logs(context: click.Context) -> None:
    """Follow the logs of all programs. The same as `logs -f`."""
    context.invoke(stack.logs, follow=True)


@example("dev:test tests/unit/manage -q")
@click.command(name="dev:test", context_settings={"ignore_unknown_options": True})
@click.option("--quick", is_flag=True, help="Only the linters and the unit and contract tests: a minute or two.")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def test(context: click.Context, /, **given: Any) -> None:
    """Run the tests. The same as `test`."""
    context.invoke(checks.test, **given)


@example("flower:open")
@click.command(name="flower:open")
def flower_open() -> None:
    """Print Flower's address, and open it where there is a browser. Asks for the user and password of Flower."""
    from native.errors import StackError
    from native.state import State

    state = State.default()
    port = state.port("flower")
    if not port:
        raise StackError("the native stack has not been started yet: ./manage.sh up")
    address = f"http://127.0.0.1:{port}/"
    tell(address)
    say(f"User and password: FLOWER_BASIC_AUTH in {state.secrets}")
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        click.launch(address)
