"""The verbs of ./manage.sh.

Exit codes: 0 the verb worked, 1 it failed, 2 the command line is wrong. Expected errors are one line on stderr; a
traceback means a bug. Modules that are slow to import are imported only when their verb runs.
"""

import sys
from typing import Any

import click

from manage import (
    account,
    bench,
    checks,
    credentials,
    demo,
    dlq,
    docs,
    info,
    lock,
    outbox,
    release,
    reread,
    secrets,
    send,
    stack,
    sync,
)
from manage.advice import explained, said_here
from manage.output import complain
from manage.place import IS_HOST
from manage.trouble import redis_words
from tasks.secrecy.forms import Known
from tasks.secrecy.secrets import NOT_SHOWN, secrets_kept, tells_secret, without_secrets
from tasks.secrecy.visible import visible


class Manage(click.Group):
    """Lists the verbs in the order in which they were added, and turns expected errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse, for all verbs, what neither PostgreSQL nor Redis takes as text."""
        if wrong := next((argument for argument in args if not _is_text(argument)), None):
            raise click.UsageError(f"this argument is no text (UTF-8 without NUL): {visible(wrong)}", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with secrets_kept(Known()):
            try:
                return super().invoke(ctx)
            except click.ClickException as error:
                error.message = visible(error.message)  # type: ignore[misc]  # it is shown by Click itself
                raise
            except Exception as error:
                without_secrets(error)
                if tells_secret(error):
                    complain(f"{type(error).__name__}: {NOT_SHOWN}")
                elif said := redis_words(error):
                    complain(said_here(said))
                elif _is_expected(error):
                    complain(explained(error, ctx.obj))
                elif isinstance(error, OSError) and error.filename is not None:
                    complain(f"{error.filename}: {error.strerror}")
                else:
                    raise
            sys.exit(1)


def _is_text(argument: str) -> bool:
    # Python passes on bytes that are no UTF-8 as lone surrogates (PEP 383).
    return "\0" not in argument and not any("\ud800" <= char <= "\udfff" for char in argument)


def _is_expected(error: Exception) -> bool:
    from native.errors import StackError
    from tasks.errors import EmailError

    return isinstance(error, StackError | EmailError)


@click.group(cls=Manage, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """MetaBuilder email workers: run, look at and test them."""


# Verbs that exist only in a clone.
_IN_A_CLONE = (
    demo.demo,
    info.setup,
    checks.test,
    bench.bench,
    stack.up,
    stack.down,
    stack.restart,
    stack.ps,
    stack.logs,
    stack.health,
    lock.lock,
    release.release,
    secrets.secrets,
    docs.docs,
)
_EVERYWHERE = (
    account.account,
    credentials.credentials,
    sync.sync,
    reread.reread,
    send.send,
    outbox.outbox,
    dlq.dlq,
    info.version,
    info.help_,
)

for verb in _EVERYWHERE if IS_HOST else _IN_A_CLONE + _EVERYWHERE:
    main.add_command(verb)
